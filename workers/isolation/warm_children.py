"""The children of one role in a pool: forked when needed, kept warm, stopped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from runtime import logs
from workers.isolation import protocol
from workers.isolation.errors import ChildDied, Interrupted, IsolationError, raise_told
from workers.isolation.fork_server import START_S, ForkServer
from workers.isolation.handle import END_S

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable

    from runtime.settings import Settings
    from workers.isolation.environment import Role
    from workers.isolation.handle import Child

log = logs.logger("isolation")


class WarmChildren:
    """At most `size` at a time, as long as callers hold `slots` around `take` and its end.

    Every child that was taken is given to `keep`, `end` or `obituary` in the end.
    """

    def __init__(
        self,
        role: Role,
        settings: Settings,
        *,
        size: int,
        idle_s: float,
        on_idle_death: Callable[[], None] | None = None,
    ) -> None:
        self.slots = asyncio.Semaphore(size)
        self._role = role
        self._idle_s = idle_s
        self._on_idle_death = on_idle_death
        self._server = ForkServer(role, settings)
        self._idle: list[Child] = []
        self._ending: set[Task[None]] = set()

    def warm(self) -> None:
        """Have the fork server start in the background, so that `take` need not wait for it."""
        self._server.warm()

    async def take(self) -> Child:
        """A child that is waiting for a request, the warmest there is.

        Raises ChildDied, Interrupted, HandlerRaised or IsolationError where a new one does not
        start.
        """
        while self._idle:
            child = self._idle.pop()
            child.rest.cancel()
            if child.is_alive():
                return child
            self.end(child)
        return await self._start()

    def keep(self, child: Child) -> None:
        """It has answered and may be taken again, or is ended after a time without work."""
        child.rest = asyncio.get_running_loop().call_later(self._idle_s, self._retire, child)
        self._idle.append(child)

    def end(self, child: Child, *, at_once: bool = False) -> None:
        """Have it ended in the background; `at_once` kills it."""
        child.rest.cancel()
        if at_once:
            child.kill()
        task = asyncio.create_task(child.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def obituary(
        self, child: Child, what: str, *, had_begun: bool
    ) -> ChildDied | Interrupted:
        """How a child ended that no longer responds."""
        # It may have closed its socket and still be running: then it is killed.
        self.end(child)
        returncode = await child.wait_or_kill(END_S)
        if child.has_lost_its_server:
            return Interrupted(what, had_begun=had_begun)
        log.warning("isolation.child_died", what=what, returncode=returncode)
        return ChildDied(what, returncode=returncode)

    async def close(self) -> None:
        """End the idle ones, wait for those that are being ended, end the fork server."""
        while self._idle:
            self.end(self._idle.pop())
        while self._ending:
            await asyncio.wait(self._ending)
        await self._server.close()

    def _gone(self, child: Child, returncode: int | None) -> None:
        """Told for each that ends; one that idles has not been ended by us."""
        was_killed = returncode is not None and returncode < 0
        if was_killed and child in self._idle and self._on_idle_death is not None:
            self._on_idle_death()

    def _retire(self, child: Child) -> None:
        self._idle.remove(child)
        self.end(child)

    async def _start(self) -> Child:
        child = await self._server.fork()
        child.on_exit(self._gone)
        try:
            async with asyncio.timeout(START_S):
                answer = await protocol.read(child.reader)
        except TimeoutError:
            self.end(child, at_once=True)
            sentence = f"A process for {self._role}s did not start within {START_S:g} s."
            raise IsolationError(sentence) from None
        except (EOFError, OSError):
            what = f"{self._role}s, while it started,"
            raise await self.obituary(child, what, had_begun=False) from None
        except BaseException:
            self.end(child, at_once=True)
            raise
        if "raised" in answer:
            self.end(child)
            raise_told(answer["raised"])
        return child
