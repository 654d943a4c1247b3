"""Every periodic job of Relais, in one table. Users' own schedules are in Postgres.

A line fires into the ledger, never into Redis: each tick becomes one job, however many beats are
running. A tick is skipped while the previous one's job is still open, though not forever, and after
a period without a beat only the newest tick is fired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.kinds import QUEUES
from tasks.periodic import Cron, Every, Periodic

if TYPE_CHECKING:
    from runtime.settings import Settings


def beat_schedule(settings: Settings) -> tuple[Periodic, ...]:
    """The table, for these settings."""
    return (
        # Deletes what has expired, in slices: on `bulk`, where it delays no urgent mail, in the
        # lane `system`, which no pause stops.
        Periodic("retention", "relais.retention", Cron("*/10 * * * *"), queue="bulk"),
        # Housekeeping; logs how deep and how old every queue is.
        Periodic("queue-health", "relais.queue_health", Every(60), queue="bulk"),
        # Through every queue, ahead of its backlog: a queue is alive if canaries come through.
        *(
            Periodic(
                f"canary-{queue}",
                "relais.canary",
                Every(settings.canary_s),
                queue=queue,
                payload={"queue": queue},
            )
            for queue in QUEUES
        ),
    )
