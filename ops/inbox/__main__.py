"""`python -m ops.inbox --data-dir D --smtp-port N --http-port M`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from ops.errors import OpsError
from ops.inbox.callbacks import Callbacks
from ops.inbox.mailbox import Mailbox
from ops.inbox.routes import Routes
from ops.inbox.smtp import Conversation
from ops.inbox.web import Connection
from runtime import logs
from runtime.errors import RelaisError

HOST = "127.0.0.1"
BACKLOG = 1024
log = logs.logger("inbox")


def main(arguments: list[str] | None = None) -> int:
    """Run the inbox until SIGTERM or SIGINT; 0: stopped, 1: could not run."""
    parser = argparse.ArgumentParser(prog="python -m ops.inbox", description="The local inbox.")
    parser.add_argument("--data-dir", type=Path, required=True, help="where the mails are kept")
    parser.add_argument("--smtp-port", type=int, required=True, help="0: any free one")
    parser.add_argument("--http-port", type=int, required=True, help="0: any free one")
    given = parser.parse_args(arguments)
    logs.configure(service="inbox", colour="shared")
    os.umask(0o077)  # nobody else may read the mail
    try:
        _make_private(given.data_dir)
        asyncio.run(_run(given.data_dir, smtp_port=given.smtp_port, http_port=given.http_port))
    except RelaisError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        message = f"The inbox cannot store mail in {folder}: {error.strerror}."
        raise OpsError(message, remedy="Give it its own folder with --data-dir.") from error


async def _run(data_dir: Path, *, smtp_port: int, http_port: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    mailbox = Mailbox(data_dir)
    callbacks = Callbacks(data_dir)
    routes = Routes(mailbox, callbacks)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(reader, writer, routes.answer).serve()

    try:
        smtp = await loop.create_server(
            lambda: Conversation(mailbox), HOST, smtp_port, backlog=BACKLOG
        )
        # HTTP listens last: /health then answers for both.
        http = await asyncio.start_server(serve, HOST, http_port, backlog=BACKLOG)
    except OSError as error:
        message = f"The inbox cannot listen on {HOST}:{smtp_port} and {HOST}:{http_port}: {error}."
        raise OpsError(message, remedy="Free the port or choose another one.") from error
    log.info(
        "inbox.started",
        smtp_port=smtp.sockets[0].getsockname()[1],
        http_port=http.sockets[0].getsockname()[1],
        **mailbox.stats(),
    )
    await stop.wait()
    smtp.close()
    http.close()
    await mailbox.close()
    await callbacks.close()
    log.info("inbox.stopped", **mailbox.stats())


if __name__ == "__main__":
    sys.exit(main())
