"""One serving process: uvicorn on the listening socket, with metrics and spans around it."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import uvicorn

from gateway import app as application
from gateway import listening, open_connections
from gateway.http_connection import HttpConnection
from gateway.open_connections import LIMITS_S, OpenConnections, Waits
from gateway.reading import Reading
from runtime import exporting, logs, metrics
from tasks import kinds

if TYPE_CHECKING:
    from types import FrameType

    from gateway.middleware import Middleware
    from runtime.settings import Settings

log = logs.logger("gateway")

TICKS_PER_BEAT = 10  # of uvicorn's main loop: a second


class Server(uvicorn.Server):
    """Releases long polls when it is told to stop, so that they do not delay the shutdown."""

    def __init__(
        self,
        config: uvicorn.Config,
        middleware: Middleware,
        *,
        connections: OpenConnections,
        parent: int | None = None,
    ) -> None:
        """`parent` is the pipe through which a parent learns that this process is serving."""
        super().__init__(config)
        self._middleware = middleware
        self._connections = connections
        self._parent = parent

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT."""
        services = getattr(self._middleware.app.state, "services", None)
        if services is not None:
            services.long_polls.release_all()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Called by the main loop ten times a second; whether to stop."""
        if counter % TICKS_PER_BEAT == 0:
            self._connections.end_overdue()
        if self._parent is not None and counter % TICKS_PER_BEAT == 0:
            try:
                # Blocking: the parent is busy, and what it has yet to read is enough.
                with suppress(BlockingIOError):
                    os.write(self._parent, b".")
            except BrokenPipeError:
                # However the parent ended, nothing would restart or stop this process any more, and
                # its socket would keep the next gateway from binding the address.
                log.warning("gateway.parent_lost")
                self.handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)


def run(settings: Settings, arguments: list[str]) -> int:
    """Serve until told to stop; `arguments` are the socket and the pipe that a parent gave."""
    exporting.start("gateway", settings)
    try:
        metrics.configure(settings, service="gateway", kinds=kinds.load(settings.kinds))
        return _serve(settings, arguments)
    finally:
        metrics.shutdown()
        exporting.stop()


def _serve(settings: Settings, arguments: list[str]) -> int:
    middleware = application.create(settings)
    connections = OpenConnections(
        at_most=open_connections.limit(settings.gateway_connections_max),
        per_address=settings.gateway_connections_per_address,
    )
    config = uvicorn.Config(
        middleware,
        loop="uvloop",
        http=partial(  # type: ignore[arg-type]
            HttpConnection, connections=connections, reading=Reading()
        ),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(LIMITS_S[Waits.NEXT]),
        timeout_graceful_shutdown=max(1, int(settings.grace_s)),
    )
    if arguments:
        descriptor, parent = map(int, arguments)
        os.set_blocking(parent, False)
        accepting = socket.socket(fileno=descriptor)
        server = Server(config, middleware, connections=connections, parent=parent)
    else:
        accepting = listening.bind(settings)
        server = Server(config, middleware, connections=connections)
    log.info("gateway.started", host=settings.gateway_host, port=settings.gateway_port)
    # A signal must not be lost before uvicorn handles signals; and when it is done, it raises the
    # signal that stopped it again: that must not end the process before its last metrics are out.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    try:
        server.run(sockets=[accepting])
    finally:
        accepting.close()
    log.info("gateway.stopped")
    return 0 if server.started else 1
