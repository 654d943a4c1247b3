"""A reverse proxy in front of n8n that keeps every callback byte by byte.

n8n parses a body before a workflow sees it; the signature is about the bytes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from ops.errors import OpsError
from ops.stack.ports import LOOPBACK

_HOP = {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}


@dataclass(frozen=True, slots=True)
class Passed:
    """One request that went through, and what n8n answered."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int


class Recorder:
    """Listens at `port` and hands everything on to `target`."""

    def __init__(self, port: int, *, target: str) -> None:
        """Raises OpsError where the port is taken."""
        self.passed: list[Passed] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                onward = {name: value for name, value in headers.items() if name not in _HOP}
                try:
                    answer = httpx.post(
                        f"{target}{self.path}",
                        content=body,
                        headers=onward,
                        timeout=60,
                        trust_env=False,
                    )
                except httpx.TransportError:  # n8n is being restarted
                    answer = httpx.Response(httpx.codes.BAD_GATEWAY)
                recorder.passed.append(Passed(self.path, headers, body, answer.status_code))
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in _HOP | {"content-encoding"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Nothing: what passed is in `passed`."""

        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), Handler)
        except OSError as error:
            message = f"The proof cannot listen on {LOOPBACK}:{port}: {error.strerror}."
            raise OpsError(message, remedy="Stop the n8n that runs there.") from error
        self.url = f"http://{LOOPBACK}:{port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
