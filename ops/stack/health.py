"""Health checks: each service is asked to do its job, in its own protocol.

Written on bare sockets where that is enough: the supervisor stays small.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ops.stack import valkey

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

TIMEOUT_S = 2.0
_OK = 200


def http(port: int, path: str, *, host: str = "127.0.0.1") -> bool:
    """Whether GET `path` answers 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
            connection.sendall(request.encode())
            with connection.makefile("rb") as answer:
                words = answer.readline(1024).split()
    except OSError:
        return False
    return len(words) > 1 and words[1] == str(_OK).encode()


def smtp(url: str) -> bool:
    """Whether the server at `url` greets and answers EHLO."""
    parts = urlsplit(url)
    implicit_tls = parts.scheme == "smtps"
    port = parts.port or (465 if implicit_tls else 587 if "starttls" in parts.scheme else 25)
    try:
        with (
            _connected(parts.hostname or "localhost", port, tls=implicit_tls) as connection,
            connection.makefile("rwb") as wire,
        ):
            if not _last_line(wire.readline, b"220"):
                return False
            wire.write(b"EHLO localhost\r\n")
            wire.flush()
            answered = _last_line(wire.readline, b"250")
            wire.write(b"QUIT\r\n")
            wire.flush()
            return answered
    except OSError:
        return False


def redis(url: str) -> bool:
    """Whether the server at `url` keeps a key for a moment."""
    parts = urlsplit(url)
    host, port = parts.hostname or "localhost", parts.port or 6379
    try:
        with _connected(host, port, tls=parts.scheme == "rediss") as connection:
            return valkey.keeps_a_key(
                connection,
                user=unquote(parts.username or ""),
                password=unquote(parts.password or ""),
            )
    except OSError:
        return False


def _connected(host: str, port: int, *, tls: bool) -> AbstractContextManager[socket.socket]:
    plain = socket.create_connection((host, port), timeout=TIMEOUT_S)
    if not tls:
        return plain
    import ssl  # noqa: PLC0415 - the stack's own servers speak plainly, on loopback

    return ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def _last_line(readline: Callable[[int], bytes], code: bytes) -> bool:
    """Read a reply to its last line; whether every line carries `code`."""
    while True:
        line = readline(2048)
        if not line.startswith(code):
            return False
        if line[3:4] != b"-":
            return True
