"""The fork server of one role, across restarts of its process."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from workers.isolation.errors import Interrupted
from workers.isolation.fork_server_process import Over, ServerProcess, start

if TYPE_CHECKING:
    from asyncio import Task

    from runtime.settings import Settings
    from workers.isolation.environment import Role
    from workers.isolation.handle import Child

START_S = 60.0  # imports on a busy machine
RESTART_S = 1.0  # at least, from one start to the next


class ForkServer:
    """Forks children; its process starts when it is first needed, and again if it has died."""

    def __init__(self, role: Role, settings: Settings) -> None:
        self._role = role
        self._what = f"{role}s"
        self._settings = settings
        self._started: Task[ServerProcess] | None = None
        self._not_before = 0.0  # by the loop's clock

    async def fork(self) -> Child:
        """A new child, which sends one frame when it is ready.

        Raises Interrupted where the server died, OSError where the kernel refuses a process,
        and what importing the kinds raised.
        """
        for _ in range(2):  # only now may it turn out that the last one is dead
            process = await asyncio.shield(self.warm())
            with contextlib.suppress(Over):
                return await process.fork()
        raise Interrupted(self._what, had_begun=False)

    async def close(self) -> None:
        """End the process; its children should have been ended before."""
        if self._started is None:
            return
        self._started.cancel()
        await asyncio.wait([self._started])
        if not self._started.cancelled() and self._started.exception() is None:
            await self._started.result().close()

    def warm(self) -> Task[ServerProcess]:
        """Start the process in the background, if there is none."""
        if self._started is None or _is_over(self._started):
            self._started = asyncio.create_task(self._start())
        return self._started

    async def _start(self) -> ServerProcess:
        clock = asyncio.get_running_loop()
        await asyncio.sleep(self._not_before - clock.time())
        self._not_before = clock.time() + RESTART_S
        process = await start(self._role, self._settings)
        try:
            async with asyncio.timeout(START_S):
                await process.ready()
        except (Over, TimeoutError):
            await process.close()
            raise Interrupted(self._what, had_begun=False) from None
        except BaseException:
            await process.close()
            raise
        return process


def _is_over(started: Task[ServerProcess]) -> bool:
    if not started.done():
        return False
    return started.cancelled() or started.exception() is not None or started.result().is_over
