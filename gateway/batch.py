"""Many jobs at once: accepted in slices, each slice one commit; a bad one spoils no other.

While one slice is being committed the next is read and checked.
"""

from __future__ import annotations

import asyncio
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from gateway import body
from gateway.errors import Code, Problem, TooLarge
from gateway.intake import refuse_unaccepted, size_of
from gateway.ndjson import LongLine, lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gateway.intake import Intake, Origin
    from ledger.shapes import Accepted, NewJob
    from runtime.settings import Settings

SLICE_MAX = 500
SLICE_MAX_BYTES = 1_048_576
YIELD_EVERY = 32  # jobs; between them single jobs have their turn
ARRAY_MAX_BYTES = 16_777_216  # parsed in one go, during which nobody else has a turn
ERRORS_MAX = 1_000


class Batch:
    """The jobs of one request, in order; `index` counts from 0 over accepted and refused ones."""

    def __init__(
        self, intake: Intake, *, origin: Origin, settings: Settings, key: str | None
    ) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []
        self._intake = intake
        self._origin = origin
        self._settings = settings
        self._key = key
        self._slice: list[tuple[int, NewJob]] = []
        self._slice_bytes = 0
        self._index = 0
        self._committing: asyncio.Task[None] | None = None

    async def take_lines(self, chunks: AsyncIterator[bytes]) -> None:
        """Accept NDJSON as it arrives; empty lines do not count."""
        depth = self._settings.body_max_depth
        try:
            async for line in lines(chunks, line_max_bytes=self._settings.body_max_bytes):
                if not line.strip():
                    continue
                try:
                    asked = body.parse(line, max_depth=depth)
                except Problem as problem:
                    self._refuse(self._next(), problem)
                else:
                    await self._take(asked, size=len(line))
        except LongLine:
            message = f"Line {self._index} is longer than {self._settings.body_max_bytes} bytes."
            raise TooLarge(Code.BODY_TOO_LARGE, message, headers={"Connection": "close"}) from None
        await self._commit()

    async def take_array(self, items: Any) -> None:  # noqa: ANN401 - any JSON
        """Accept a parsed JSON array."""
        if not isinstance(items, list):
            message = "The body of a batch is an array of jobs."
            raise Problem(Code.VALUE_INVALID, message, remedy="Wrap the job in [ ].")
        if len(items) > self._settings.batch_max_jobs:
            raise self._too_many()
        for asked in items:
            await self._take(asked, size=size_of(asked))
        await self._commit()

    async def stop(self) -> None:
        """Wait for the slice that is being committed: what was accepted is to be told."""
        if self._committing is not None:
            task, self._committing = self._committing, None
            await asyncio.gather(task, return_exceptions=True)

    def document(self) -> dict[str, Any]:
        """What became of everything so far."""
        return {
            "accepted": len(self.jobs),
            "refused": len(self.errors),
            "jobs": self.jobs,
            "errors": sorted(self.errors, key=itemgetter("index"))[:ERRORS_MAX],
        }

    async def _take(self, asked: Any, *, size: int) -> None:  # noqa: ANN401 - any JSON
        index = self._next()
        if index % YIELD_EVERY == 0:
            await asyncio.sleep(0)
        try:
            job = self._intake.prepare(
                asked, origin=self._origin, key=self._key_of(asked, index), size=size
            )
        except Problem as problem:
            self._refuse(index, problem)
            return
        self._slice.append((index, job))
        self._slice_bytes += size
        if len(self._slice) >= SLICE_MAX or self._slice_bytes >= SLICE_MAX_BYTES:
            await self._commit_behind()

    def _next(self) -> int:
        if self._index >= self._settings.batch_max_jobs:
            raise self._too_many()
        index = self._index
        self._index += 1
        return index

    def _key_of(self, asked: Any, index: int) -> str | None:  # noqa: ANN401 - any JSON
        """A key for the whole batch gives every job without one of its own a key by its index."""
        if self._key is None or not isinstance(asked, dict) or asked.get("idempotency_key"):
            return None
        return f"{self._key}#{index}"

    def _refuse(self, index: int, problem: Problem) -> None:
        self.errors.append(problem.line(index))

    def _too_many(self) -> Problem:
        return TooLarge(
            Code.TOO_MANY_JOBS,
            f"A batch holds at most {self._settings.batch_max_jobs} jobs.",
            remedy="Send the rest in further batches.",
            headers={"Connection": "close"},
        )

    async def _commit_behind(self) -> None:
        """Commit the slice while the next one is read; one commit at a time keeps the order."""
        await self._settled()
        taken, self._slice, self._slice_bytes = self._slice, [], 0
        self._committing = asyncio.create_task(self._write(taken))

    async def _commit(self) -> None:
        await self._commit_behind()
        await self._settled()

    async def _settled(self) -> None:
        if self._committing is not None:
            task, self._committing = self._committing, None
            await task

    async def _write(self, taken: Sequence[tuple[int, NewJob]]) -> None:
        answers = await self._intake.accept_together([job for _, job in taken])
        for (index, job), accepted in zip(taken, answers, strict=True):
            try:
                refuse_unaccepted(job, accepted)
            except Problem as problem:
                self._refuse(index, problem)
            else:
                self.jobs.append(_line(index, accepted))


def _line(index: int, accepted: Accepted) -> dict[str, Any]:
    line: dict[str, Any] = {"index": index, "id": accepted.id, "state": accepted.state}
    if not accepted.is_new:
        line["replayed"] = True
    return line
