"""`python -m workers.beat`: fires due ticks, from `beat_schedule.py` and users' schedules.

Celery's beat service keeps the loop; its scheduler is ours and fires into the ledger. Any number
of beats may run: each tick is unique there. Redis is not needed to fire, only to ring.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.beat import Scheduler, Service
from sqlalchemy.exc import SQLAlchemyError

from doorbell.broker import celery_app
from doorbell.ringer import Ringer
from ledger import database
from ledger.presence import Presence
from runtime import exporting, logs, metrics
from runtime import settings as runtime_settings
from runtime.errors import RelaisError
from tasks import preflight
from workers.schedule_runner import LOOK_EVERY_S, ScheduleRunner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runtime.settings import Settings

log = logs.logger("beat")


class LedgerScheduler(Scheduler):  # type: ignore[misc]  # Celery has no types
    """A Celery scheduler whose schedule is the ledger's."""

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - Celery's own
        look: Callable[[], Awaitable[float]],
        stopping: threading.Event,
        runner: asyncio.Runner,
        **kwargs: Any,  # noqa: ANN401 - Celery's own
    ) -> None:
        super().__init__(*args, **kwargs)
        self._look = look
        self._stopping = stopping
        self._runner = runner
        self._is_lost = False

    def setup_schedule(self) -> None:
        """Nothing to set up: `look` reads the table, and users' schedules from the ledger."""

    def tick(self, *_: Any, **__: Any) -> float:  # noqa: ANN401 - Celery's own
        """Check once, then wait here for the next time, so that a signal can end the wait."""
        self._stopping.wait(self._look_once())
        return 0.0

    def _look_once(self) -> float:
        try:
            wait_s = self._runner.run(self._looking())
        except (SQLAlchemyError, OSError) as error:
            if not self._is_lost:
                log.warning("beat.ledger_lost", error=type(error).__name__)
            self._is_lost = True
            return LOOK_EVERY_S
        if self._is_lost:
            log.info("beat.ledger_back")
            self._is_lost = False
        return wait_s

    async def _looking(self) -> float:
        return await self._look()


def run(settings: Settings) -> None:
    """Fire until SIGTERM or SIGINT."""
    stopping = threading.Event()
    app = celery_app(settings)
    ringer = Ringer(settings, app=app)
    presence = Presence(settings, queue="beat")
    engine = database.engine(settings, pool_size=2, name="relais beat")
    firing = ScheduleRunner(settings, database=engine, ringer=ringer)
    with asyncio.Runner() as runner:
        scheduler = partial(LedgerScheduler, look=firing.look, stopping=stopping, runner=runner)
        service = Service(app, max_interval=LOOK_EVERY_S, scheduler_cls=scheduler)

        def stop(*_: object) -> None:
            service.stop()
            stopping.set()

        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, stop)
        presence.start(timeout_s=0)
        log.info("beat.started")
        try:
            service.start()
        finally:
            log.info("beat.stopped")
            ringer.close()
            presence.stop()
            runner.run(engine.dispose())


def main() -> int:
    """Run from the command line; 2 if a setting is wrong."""
    try:
        settings = runtime_settings.load()
        settings.require_database_url()
        logs.configure(service="beat", colour=settings.colour, level=settings.log_level)
        preflight.require(settings, preflight.DATABASE, preflight.DIRECT, preflight.REDIS)
        exporting.start("beat", settings)
        metrics.configure(settings, service="beat")
        run(settings)
    except RelaisError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    finally:
        metrics.shutdown()
        exporting.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
