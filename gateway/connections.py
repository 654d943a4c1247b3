"""The gateway's way to the ledger: every call is bounded in time and runs in a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ledger import database
from ledger.errors import LedgerUnavailable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

ANSWER_WITHIN_S = 4.5


class Connections:
    """Runs functions of the ledger; an outage is LedgerUnavailable, within `answer_within_s`."""

    def __init__(self, engine: AsyncEngine, *, answer_within_s: float = ANSWER_WITHIN_S) -> None:
        self.engine = engine
        self._answer_within_s = answer_within_s
        self._is_fit = False
        self._tasks: set[asyncio.Task[object]] = set()

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

        async def work() -> Result:
            return await self.write(function, *args, **kwargs)

        task = asyncio.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        done, _ = await asyncio.wait({task}, timeout=self._answer_within_s)
        if not done:
            task.cancel()
            raise _away()
        return task.result()

    async def write(
        self,
        function: Callable[Concatenate[AsyncConnection, Parameters], Awaitable[Result]],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """Like `call`, for a caller that keeps the time itself."""
        try:
            if not self._is_fit:
                await database.refuse_if_unfit(self.engine)
                self._is_fit = True
            async with self.engine.begin() as connection:
                return await function(connection, *args, **kwargs)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            if is_outage(error):
                self._is_fit = False  # what comes back may be another server
                raise _away() from error
            raise

    def _ended(self, task: asyncio.Task[object]) -> None:
        """Whoever gave up waiting was told so; how it ended later is nobody's news."""
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        """Give up what still runs and close every connection."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        await self.engine.dispose()


def is_outage(error: BaseException) -> bool:
    """Whether `error` says that Postgres is away, rather than that it refused a statement."""
    if isinstance(error, DBAPIError):
        # 57P01-57P05: shut down; 53: out of disk, memory or connections; 08: connection lost.
        state = str(getattr(error.orig, "sqlstate", "") or "")
        return error.connection_invalidated or state[:2] in {"", "08", "53", "57", "58"}
    return isinstance(error, (OSError, TimeoutError, PoolTimeout))


def _away() -> LedgerUnavailable:
    return LedgerUnavailable(
        "The ledger does not answer; nothing was promised.",
        remedy="Send the request again in a few seconds, with the same Idempotency-Key.",
    )
