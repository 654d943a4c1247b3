"""`python -m workers QUEUE`: one worker process for one queue."""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings

from runtime import exporting, logs, metrics
from runtime import settings as runtime_settings
from runtime.errors import RelaisError
from tasks import kinds, preflight
from tasks.kinds import QUEUES


def main(arguments: list[str]) -> int:
    """Run until SIGTERM (finish running jobs) or SIGQUIT (give them back); 2: invalid input."""
    if len(arguments) != 1 or arguments[0] not in QUEUES:
        sys.stderr.write(f"Usage: python -m workers {'|'.join(QUEUES)}" + "\n")
        return 2
    queue = arguments[0]
    try:
        settings = runtime_settings.load()
        settings.require_database_url()
        service = f"worker-{queue}"
        logs.configure(service=service, colour=settings.colour, level=settings.log_level)
        preflight.require(settings, preflight.DATABASE, preflight.DIRECT, preflight.REDIS)
        known = kinds.load(settings.kinds)
        exporting.start(service, settings)
        metrics.configure(settings, service=service, kinds=known)
        # Only once the settings are known to be valid: these imports take most of the startup time.
        from celery.concurrency import get_implementation  # noqa: PLC0415
        from celery.exceptions import SecurityWarning  # noqa: PLC0415

        from workers.app import build  # noqa: PLC0415

        # It warns root of code in messages, which only formats other than JSON can carry: no other
        # is accepted here (doorbell/broker.py), and nothing of a message is read at all.
        warnings.simplefilter("ignore", SecurityWarning)
        app = build(settings)
        for noisy in ("celery.worker.strategy", "celery.app.trace"):
            # They log each doorbell twice; the engine logs what happens to jobs.
            logging.getLogger(noisy).setLevel(logging.WARNING)
    except RelaisError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    # Not `app.worker_main`: Celery's command line costs 20 MB and half of the startup time.
    worker = app.Worker(
        hostname=f"{queue}-{settings.colour}-{os.getpid()}@{socket.gethostname()}",
        pool_cls=get_implementation("solo"),
        queues=[queue],
        loglevel=logging.getLevelName(settings.log_level),
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    worker.start()
    metrics.shutdown()
    exporting.stop()
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
