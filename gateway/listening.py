"""The gateway's address, bound once: by the one process, or by the parent of several."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from runtime.errors import RelaisError

if TYPE_CHECKING:
    from runtime.settings import Settings

BACKLOG = 2048


def bind(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say; an error with a remedy if it cannot."""
    host, port = settings.gateway_host, settings.gateway_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        message = f"The gateway cannot listen on {host}:{port}: {error.strerror}."
        raise RelaisError(message, remedy="Free the port or set RELAIS_GATEWAY_PORT.") from error
    return listening
