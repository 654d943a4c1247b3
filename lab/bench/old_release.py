"""The gateway and a worker of the release before this one, as far as the ledger sees them.

They run the statements of that release (old_release.sql) while the ledger is upgraded under them,
wait where Postgres asks for it, as that release does, and remember what they were promised.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from sqlalchemy.exc import SQLAlchemyError

from ledger import ids, outage, statements

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

SQL = statements.load(Path(__file__).with_suffix(".sql"))
BATCH = 50
CHILD_EVERY = 10  # jobs; each waits for the one before it
PUT_OFF_EVERY = 7  # jobs; their first attempt ends in a retry
AGAIN_S = 0.05
PAUSE_S = 0.02  # between two batches: some thousand jobs a second, not all that there is


class OldRelease:
    """One gateway and one worker on one database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.accepted: dict[UUID, int] = {}  # the number in its payload
        self.finished: set[UUID] = set()
        self.wrong: list[str] = []  # sentences
        self.waits = 0  # times that Postgres was not ready for a batch
        self.slowest_s = {"accept": 0.0, "claim": 0.0, "finish": 0.0}
        self._engine = engine
        self._owner = ids.new()
        self._accepts = self._works = True
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to accept and to work."""
        self._tasks = [asyncio.create_task(self._gateway()), asyncio.create_task(self._worker())]

    async def stop_accepting(self) -> None:
        """The gateway goes."""
        self._accepts = False
        await self._tasks[0]

    async def stop(self) -> None:
        """Both go; nothing is left running."""
        self._accepts = self._works = False
        await asyncio.gather(*self._tasks)

    def forget_times(self) -> None:
        """What was slow until now does not count."""
        self.slowest_s = dict.fromkeys(self.slowest_s, 0.0)

    async def _gateway(self) -> None:
        number = 0
        while self._accepts:
            jobs = [self._new(number + place) for place in range(BATCH)]
            number += BATCH

            async def accept(connection: AsyncConnection, rows: Any = jobs) -> None:  # noqa: ANN401
                parents = [row["parent"] for row in rows if row["parent"]]
                if parents:
                    values = {"ids": parents, "tenants": ["default"] * len(parents)}
                    await connection.execute(SQL["adopt_parents"], values)
                await connection.execute(SQL["accept"], {"jobs": to_json(rows).decode()})
                children = [row for row in rows if row["parent"]]
                if children:
                    links = {
                        "children": [row["id"] for row in children],
                        "parents": [row["parent"] for row in children],
                    }
                    await connection.execute(SQL["link_parents"], links)
                    await self._settle(connection, links["parents"])

            await self._until_done("accept", accept)
            self.accepted |= {row["id"]: row["payload"]["number"] for row in jobs}
            await asyncio.sleep(PAUSE_S)

    def _new(self, number: int) -> dict[str, Any]:
        is_child = number % CHILD_EVERY == 0 and bool(self.accepted)
        parent = next(reversed(self.accepted)) if is_child else None
        return {
            "id": ids.new(),
            "tenant": "default",
            "kind": "bench.nothing",
            "queue": "bulk",
            "blocked": parent is not None,
            "priority": 5,
            "payload": {"number": number},
            "max_attempts": 3,
            "timeout_s": 30,
            "on_parent_failure": "fail",
            "parent": parent,
        }

    async def _worker(self) -> None:
        while self._works:
            jobs = await self._until_done("claim", self._claim)
            if not jobs:
                await asyncio.sleep(PAUSE_S)
                continue
            for job in jobs:
                expected = self.accepted.get(job.id)
                payload = job.payload or {}
                if "number" not in payload or (
                    expected is not None and payload["number"] != expected
                ):
                    self.wrong.append(f"{job.id} came with {job.payload}, not {expected}")

            async def finish(connection: AsyncConnection, jobs: Any = jobs) -> set[UUID]:  # noqa: ANN401
                return await self._finish(connection, jobs)

            self.finished |= await self._until_done("finish", finish)

    async def _claim(self, connection: AsyncConnection) -> Sequence[Row[Any]]:
        await connection.execute(SQL["promote"], {"queue": "bulk", "limit": BATCH})
        values = {
            "queue": "bulk",
            "owner": self._owner,
            "worker": "old",
            "colour": "blue",
            "version": "old",
            "lease_s": 3600,
            "limit": BATCH,
        }
        return (await connection.execute(SQL["claim"], values)).all()

    async def _finish(self, connection: AsyncConnection, jobs: Sequence[Row[Any]]) -> set[UUID]:
        put_off = [j for j in jobs if j.attempt == 1 and j.payload["number"] % PUT_OFF_EVERY == 0]
        if put_off:
            deferred = [
                {"id": j.id, "attempt": j.attempt, "delay_s": 0.2, "uncounted": 0} for j in put_off
            ]
            await connection.execute(SQL["defer"], {"rows": to_json(deferred).decode()})
        rest = {j.id for j in jobs} - {j.id for j in put_off}
        done = [
            {"id": j.id, "attempt": j.attempt, "result": {"number": j.payload["number"]}}
            for j in jobs
            if j.id in rest
        ]
        result = await connection.execute(SQL["succeed"], {"rows": to_json(done).decode()})
        ended = set(result.scalars())
        values = {"ids": list(ended)}
        followed = await connection.execute(SQL["finished_with_consequences"], values)
        parents = [row.id for row in followed if row.has_children]
        if parents:
            await self._settle(connection, parents)
        return ended

    async def _settle(self, connection: AsyncConnection, parents: list[UUID]) -> None:
        values = {"parents": parents}
        children = list((await connection.execute(SQL["lock_children"], values)).scalars())
        if children:
            await connection.execute(SQL["fail_children"], values)
            await connection.execute(SQL["unblock"], {"children": children})

    async def _until_done(
        self, name: str, write: Callable[[AsyncConnection], Awaitable[Any]]
    ) -> Any:  # noqa: ANN401 - what the write gives
        began = time.monotonic()
        while True:
            with suppress(_Later):
                done = await self._try(write)
                self.slowest_s[name] = max(self.slowest_s[name], time.monotonic() - began)
                return done
            self.waits += 1
            await asyncio.sleep(AGAIN_S)

    async def _try(self, write: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:  # noqa: ANN401
        try:
            async with self._engine.begin() as connection:
                return await write(connection)
        except SQLAlchemyError as error:
            if outage.is_passing(error):
                raise _Later from error
            raise


class _Later(Exception):  # noqa: N818 - not an error
    """Postgres is not ready for this now."""
