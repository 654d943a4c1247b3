"""Where the demo's callback goes: a receiver that lives as long as one run.

Not the inbox: what callbacks may reach, every producer's `workflow.trigger` may read, and in the
inbox lie the mails of all tenants.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from typing import TYPE_CHECKING, Self

from ops.stack import ports
from tasks.outbound import signature

if TYPE_CHECKING:
    from types import TracebackType

BODY_MAX_BYTES = 1_048_576
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Callback:
    """A request as it came; header names are lower case."""

    headers: dict[str, str]
    body: bytes

    def is_signed(self, secret: str) -> bool:
        """Whether it carries a Standard Webhooks signature made with `secret`."""
        try:
            signature.verify(secret=secret, headers=self.headers, body=self.body, tolerance_s=inf)
        except signature.WrongSignature:
            return False
        return True


class Receiver:
    """Listens on 127.0.0.1; use it as a context manager. It shows nothing to anybody."""

    def __init__(self, port: int) -> None:
        """Raises PortInUseError where somebody else listens on `port`."""
        ports.require_free(port, service="the demo's receiver of callbacks")
        self.callbacks: list[Callback] = []
        self._server = _Server((ports.LOOPBACK, port), _Handler)
        self._server.kept = self.callbacks
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    kept: list[Callback]


class _Handler(BaseHTTPRequestHandler):
    timeout = _TIMEOUT_S

    def do_POST(self) -> None:
        """Keep the request."""
        declared = self.headers.get("content-length", "")
        if not declared.isdecimal() or int(declared) > BODY_MAX_BYTES:
            self.send_error(413)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(declared))
        assert isinstance(self.server, _Server)  # noqa: S101 - made with this handler
        self.server.kept.append(Callback(headers, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: the demo's output is for people."""
