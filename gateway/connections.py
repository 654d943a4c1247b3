"""The gateway's access to the ledger: every call has a time limit and runs in a transaction.

Each part of the gateway has a few connections of its own, so that a part whose calls wait (for a
lock, for a server that does not respond) never starves the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from ledger import database, outage
from ledger.errors import LedgerUnavailable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

ANSWER_WITHIN_S = 4.5


@dataclass(slots=True)
class _Server:
    """What all shares of the connections have in common."""

    engine: AsyncEngine
    is_fit: bool = False
    tasks: set[asyncio.Task[object]] = field(default_factory=set)


class Connections:
    """Runs functions of the ledger, `at_once` of them; an outage is LedgerUnavailable."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        at_once: int,
        answer_within_s: float = ANSWER_WITHIN_S,
        is_single: bool = False,
    ) -> None:
        """`is_single`: each call is one statement, which commits itself: no BEGIN, no COMMIT."""
        self._is_single = is_single
        self._server = _Server(engine)
        self._slots = asyncio.Semaphore(at_once)
        self._answer_within_s = answer_within_s

    def share(self, at_once: int, *, is_single: bool = False) -> Connections:
        """`at_once` more connections to the same server, which no other part can use up."""
        made = Connections(
            self._server.engine,
            at_once=at_once,
            answer_within_s=self._answer_within_s,
            is_single=is_single,
        )
        made._server = self._server
        return made

    async def call(
        self,
        function: Callable[Concatenate[AsyncConnection, Parameters], Awaitable[Result]],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """`function(connection, ...)` in a transaction of its own, committed on return.

        A caller that goes away does not tear the transaction: it runs to its end on its own. A
        server that accepts bytes and never answers is given up after the time limit.
        """
        until = asyncio.get_running_loop().time() + self._answer_within_s
        try:
            async with asyncio.timeout_at(until):
                await self._slots.acquire()
        except TimeoutError:
            raise _away() from None

        async def work() -> Result:
            return await self._write(function, *args, **kwargs)

        task = asyncio.create_task(work())
        self._server.tasks.add(task)
        task.add_done_callback(self._ended)
        done, _ = await asyncio.wait({task}, timeout=until - asyncio.get_running_loop().time())
        if not done:
            # An abandoned call may take a while to end. Until then it keeps a connection, of
            # which there are some to spare, but not the slot.
            task.remove_done_callback(self._ended)
            task.add_done_callback(self._forget)
            self._slots.release()
            task.cancel()
            raise _away()
        return task.result()

    async def close(self) -> None:
        """Abandon running calls and close every connection."""
        tasks = self._server.tasks
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        await self._server.engine.dispose()

    async def _write(
        self,
        function: Callable[Concatenate[AsyncConnection, Parameters], Awaitable[Result]],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        server = self._server
        try:
            if not server.is_fit:
                await database.refuse_if_unfit(server.engine)
                server.is_fit = True
            begun = database.single(server.engine) if self._is_single else server.engine.begin()
            async with begun as connection:
                return await function(connection, *args, **kwargs)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            if outage.is_away(error):
                server.is_fit = False  # it may be another server when it is back
                raise _away() from error
            raise

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._slots.release()
        self._forget(task)

    def _forget(self, task: asyncio.Task[object]) -> None:
        """The caller who gave up waiting was told so; how it ended later is of no interest."""
        self._server.tasks.discard(task)
        if not task.cancelled():
            task.exception()


def _away() -> LedgerUnavailable:
    return LedgerUnavailable(
        "The ledger does not respond; nothing was confirmed.",
        remedy="Send the request again in a few seconds, with the same Idempotency-Key.",
    )
