"""`python -m gateway`: one process, one event loop; SIGTERM finishes what runs."""

from __future__ import annotations

import signal
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn

from gateway import app as application
from runtime import logs, metrics, telemetry
from runtime import settings as runtime_settings
from runtime.errors import RelaisError, SettingsError
from tasks import kinds

if TYPE_CHECKING:
    from types import FrameType

    from gateway.edge import Edge
    from runtime.settings import Settings

log = logs.logger("gateway")

BACKLOG = 2048
KEEP_ALIVE_S = 75


class Server(uvicorn.Server):
    """Lets long polls go when it is told to stop, so that they do not hold it up."""

    def __init__(self, config: uvicorn.Config, edge: Edge) -> None:
        super().__init__(config)
        self._edge = edge

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT."""
        services = getattr(self._edge.app.state, "services", None)
        if services is not None:
            services.watch.release_all()
        super().handle_exit(sig, frame)


def main() -> int:
    """Serve until told to stop; 2 for wrong settings, 1 where it cannot start."""
    try:
        settings = runtime_settings.load()
        settings.require_database_url()
        logs.configure(service="gateway", colour=settings.colour, level=settings.log_level)
        telemetry.configure("gateway", settings)
        metrics.configure(settings, service="gateway", kinds=kinds.load(settings.kinds))
        return _serve(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the sentence for whoever started it
        return 2
    except RelaisError as error:
        print(error, file=sys.stderr)  # noqa: T201 - "
        return 1
    finally:
        metrics.shutdown()
        telemetry.shutdown()


def _serve(settings: Settings) -> int:
    edge = application.create(settings)
    config = uvicorn.Config(
        edge,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, int(settings.grace_s)),
    )
    listening = _listen(settings.gateway_host, settings.gateway_port)
    server = Server(config, edge)
    log.info("gateway.started", host=settings.gateway_host, port=settings.gateway_port)
    # uvicorn raises the signal that stopped it once more when it is done; that must not end the
    # process before its last numbers and spans are out.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _done)
    try:
        server.run(sockets=[listening])
    finally:
        listening.close()
    log.info("gateway.stopped")
    return 0 if server.started else 1


def _done(_: int, __: FrameType | None) -> None:
    """Nothing is left to stop."""


def _listen(host: str, port: int) -> socket.socket:
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


if __name__ == "__main__":
    sys.exit(main())
