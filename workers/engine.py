"""The engine of one worker: claims jobs of one queue for as long as it runs.

It runs in a thread with its own event loop, beside Celery's consumer, whose doorbells
only wake it. Claims and finishes are batched when the backlog is deep; a lone job never waits for
a batch.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from functools import partial
from typing import TYPE_CHECKING

from ledger import database as ledger_database
from runtime import logs
from tasks.email import delivery, pool
from tasks.templates import stored
from workers import execute, reclaimer
from workers.claim_window import ClaimWindow
from workers.claimer import Claimer
from workers.completer import Completer
from workers.executor import Executor
from workers.isolation.pool import IsolationPool
from workers.loop_watch import LoopWatch

if TYPE_CHECKING:
    from doorbell.ringer import Ringer
    from ledger.presence import Presence
    from runtime.settings import Settings
    from workers.events import TaskEvents
    from workers.executor import Fence

log = logs.logger("engine")

JOIN_S = 10.0  # beyond the grace period, to write what is left
POOL_SIZE = 8  # connections for claims, finishes and checks; handlers have as many of their own
LEAVE_S = 1.0  # for what is left at the very end: tasks of handlers, emails past their dot


class Engine:
    """One queue's claims; claimed jobs go to `Executor`."""

    def __init__(
        self,
        settings: Settings,
        *,
        queue: str,
        presence: Presence,
        ringer: Ringer,
        events: TaskEvents | None = None,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._presence = presence
        self._ringer = ringer
        self._events = events
        self._window = ClaimWindow(
            concurrency=settings.concurrency(queue), claim_max=settings.claim_max
        )
        self._is_stopping = False
        self._grace_s = settings.grace_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executor: Executor | None = None
        self._watch = LoopWatch(queue=queue, kind_of=self._kind_of)
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start claiming."""
        self._thread.start()
        self._started.wait()

    def wake(self) -> None:
        """A doorbell rang; callable from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._bell.set)

    def cancel(self, fences: list[Fence]) -> None:
        """Stop these attempts, if they are running here; callable from any thread."""
        if self._loop is not None and self._executor is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._executor.cancel, fences)

    def held(self) -> list[Fence] | None:
        """The fences whose leases are to be extended; callable from any thread.

        None where the event loop has shown no life for half a lease: a worker that a handler
        blocks must not keep its jobs for ever.
        """
        if not self._is_lively():
            return None
        return [] if self._executor is None else self._executor.fences()

    def stop(self, *, grace_s: float | None = None) -> None:
        """Stop claiming, let running jobs finish within the grace period, give back the rest."""
        if grace_s is not None:
            self._grace_s = grace_s
        self._is_stopping = True
        self.wake()
        self._thread.join(self._grace_s + JOIN_S)

    def _is_lively(self) -> bool:
        return self._watch.silent_s < self._settings.lease_s / 2

    def _kind_of(self, task: object) -> str | None:
        return None if self._executor is None else self._executor.kind_of(task)

    def _still_owned(self, fence: Fence) -> bool:
        """Whether this claim cannot have been taken over."""
        is_held = self._executor is not None and self._executor.holds(fence)
        return is_held and self._is_lively() and self._presence.still_owned()

    def _run(self) -> None:
        try:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            main = loop.create_task(self._main())
            while not main.done():
                _run_until_done(loop, main)
            main.result()
            loop.run_until_complete(_leave(loop))
            loop.close()
        except BaseException as error:
            # Celery's consumer would go on, deaf: better to exit, so that we are restarted.
            log.error("engine.broken", exc_info=error, queue=self._queue)
            os._exit(os.EX_SOFTWARE)

    async def _main(self) -> None:
        self._bell = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        name = f"relais worker {self._queue}"
        database = ledger_database.engine(self._settings, pool_size=POOL_SIZE, name=name)
        # Handlers that use up their connections must not keep us from claiming and finishing.
        handlers_database = ledger_database.engine(
            self._settings, pool_size=POOL_SIZE, name=f"{name} handlers"
        )
        concurrency = self._settings.concurrency(self._queue)
        isolation = IsolationPool(
            self._settings,
            size=concurrency,
            on_idle_death=lambda: executor.deaths.note_bystander(),  # noqa: PLW0108 - made below
        )
        executor = self._executor = Executor(
            concurrency=concurrency,
            window=self._window,
            around=execute.Surroundings(
                self._settings, handlers_database, isolation, self._still_owned
            ),
            completer=Completer(
                database,
                ringer=self._ringer,
                events=self._events,
                on_stuck=self._bell.set,
                snooze_max_s=self._settings.snooze_max_s,
            ),
            events=self._events,
            on_room=self._bell.set,
            on_leaving=partial(delivery.leave, within_s=LEAVE_S),
        )
        beside = [
            asyncio.create_task(self._watch.run(executor.keep_time)),
            asyncio.create_task(
                reclaimer.run(
                    database,
                    self._settings,
                    self._presence,
                    self._ringer,
                    on_suspicion=isolation.warm,  # jobs of a dead worker run alone
                )
            ),
        ]
        self._started.set()
        try:
            await self._claim_until_stopped(
                Claimer(self._settings, database, queue=self._queue, presence=self._presence),
                executor,
            )
            given_back = await executor.wind_down(grace_s=self._grace_s)
            log.info("engine.stopped", queue=self._queue, given_back=given_back)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await executor.close()
            await isolation.close()
            await pool.close_all()
            await stored.leave(handlers_database)
            await handlers_database.dispose()
            await database.dispose()

    async def _claim_until_stopped(self, claimer: Claimer, executor: Executor) -> None:
        while not self._is_stopping:
            self._bell.clear()
            if await claimer.take(executor, room=executor.claim_room()):
                continue  # there may be more where that came from
            await executor.give_back_stale()
            await self._rest()

    async def _rest(self) -> None:
        """Wait for a doorbell, a freed slot, or the time to poll."""
        look_s = self._settings.poll_s * random.uniform(0.7, 1.3)  # noqa: S311 - jitter
        try:
            async with asyncio.timeout(look_s):
                await self._bell.wait()
        except TimeoutError:
            pass


def _run_until_done(loop: asyncio.AbstractEventLoop, main: asyncio.Task[None]) -> None:
    """Run the loop; an exception that a handler's task throws out of it does not end it."""
    try:
        loop.run_until_complete(main)
    except (SystemExit, KeyboardInterrupt) as error:
        if main.done():
            raise
        log.error("engine.exit_refused", exc_info=error)


async def _leave(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel tasks that handlers left behind, as far as they end in time."""
    left = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=LEAVE_S)
    await loop.shutdown_asyncgens()
