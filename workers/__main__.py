"""`python -m workers QUEUE`: one worker process for one queue."""

from __future__ import annotations

import logging
import os
import sys

from runtime import logs, metrics, telemetry
from runtime import settings as runtime_settings
from runtime.errors import RelaisError
from tasks import kinds
from tasks.kinds import QUEUES


def main(arguments: list[str]) -> int:
    """Run until SIGTERM (finish what runs) or SIGQUIT (give it back); 2 for a wrong argument."""
    if len(arguments) != 1 or arguments[0] not in QUEUES:
        sys.stderr.write(f"Say which queue: python -m workers {'|'.join(QUEUES)}" + "\n")
        return 2
    queue = arguments[0]
    try:
        settings = runtime_settings.load()
        settings.require_database_url()
        known = kinds.load(settings.kinds)
        service = f"worker-{queue}"
        logs.configure(service=service, colour=settings.colour, level=settings.log_level)
        telemetry.configure(service, settings)
        metrics.configure(settings, service=service, kinds=known)
        from workers.app import build  # noqa: PLC0415 - after the settings are known to be good

        app = build(settings)
        for noisy in ("celery.worker.strategy", "celery.app.trace"):
            # They tell of doorbells, twice each; what becomes of jobs the engine tells.
            logging.getLogger(noisy).setLevel(logging.WARNING)
    except RelaisError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    app.worker_main(
        [
            "worker",
            f"--queues={queue}",
            "--pool=solo",
            f"--hostname={queue}-{settings.colour}-{os.getpid()}@%h",
            "--without-gossip",
            "--without-mingle",
            f"--loglevel={settings.log_level}",
        ]
    )
    metrics.shutdown()
    telemetry.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
