"""Many jobs at once: one commit per slice; an invalid job does not affect the others.

While one slice is being committed the next is read and checked. Jobs blocked by the lock of another
transaction wait until all others are in.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from gateway import body, exception_handlers
from gateway.connections import ANSWER_WITHIN_S
from gateway.errors import Code, Problem, TooLarge
from gateway.intake import refusal
from gateway.json_array import Turn
from gateway.ndjson import LongLine, lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gateway.body_memory import Room
    from gateway.intake import Intake, Settle
    from gateway.preparation import Origin
    from ledger.shapes import Accepted, NewJob
    from runtime.settings import Settings

SLICE_MAX = 500
SLICE_MAX_BYTES = 1_048_576
ARRAY_MAX_BYTES = 16_777_216  # in memory as a whole
ERRORS_MAX = 1_000
HELD_UP_MAX_BYTES = 8 * SLICE_MAX_BYTES  # of jobs that wait for a lock, in memory
WAIT_MIN_S = 0.5  # for locks, once the time is used up: enough if nothing is locked


@dataclass(frozen=True, slots=True)
class _Line:
    """One valid job of a batch."""

    index: int
    job: NewJob
    size: int


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
        self._slice: list[_Line] = []
        self._slice_bytes = 0
        self._held_up: list[_Line] = []
        self._held_up_bytes = 0
        self._waits_until: float | None = None
        self._index = 0
        self._committing: asyncio.Task[None] | None = None

    async def take_lines(self, chunks: AsyncIterator[bytes], *, room: Room) -> None:
        """Accept NDJSON as it arrives; empty lines do not count.

        A line counts against `room` until it ends.
        """
        depth, line_max = self._settings.body_max_depth, self._settings.body_max_bytes
        turn = Turn()
        try:
            async for line in lines(chunks, line_max_bytes=line_max, room=room):
                if not line.strip():
                    continue
                try:
                    asked = body.parse(line, max_depth=depth)
                except Problem as problem:
                    self._refuse(self._next(), problem)
                    continue
                if self._take(asked, size=len(line)):
                    await self._commit_behind()
                await turn.over()
        except LongLine:
            message = f"Line {self._index} is longer than {line_max} bytes."
            raise TooLarge(Code.BODY_TOO_LARGE, message, headers={"Connection": "close"}) from None
        await self._commit()

    async def take_array(self, content: bytes) -> None:
        """Accept a JSON array."""
        depth, size_max = self._settings.body_max_depth, self._settings.body_max_bytes
        jobs_max = self._settings.batch_max_jobs
        places = await body.cut_array(content, items_max=jobs_max, max_depth=depth)
        if len(places) > jobs_max:
            raise self._too_many()
        turn = Turn()
        for place in places:
            text = content[place].strip()
            if len(text) > size_max:
                self._refuse(self._next(), _too_large(size_max))
            elif self._take(body.parse(text, max_depth=depth), size=len(text)):
                await self._commit_behind()
            await turn.over()
        await self._commit()

    async def wait_for_locks(self) -> None:
        """Accept the blocked jobs, as far as their locks are released in time for the response."""
        now = asyncio.get_running_loop().time()
        if self._waits_until is None:
            self._waits_until = now + ANSWER_WITHIN_S
        held_up, self._held_up, self._held_up_bytes = self._held_up, [], 0
        await self._intake.accept_apart(
            [line.job for line in held_up],
            settle=self._settler(held_up),
            until=max(self._waits_until, now + WAIT_MIN_S),
        )

    async def stop(self) -> None:
        """Wait for the slice that is being committed: the response must list what was accepted."""
        if self._committing is not None:
            task, self._committing = self._committing, None
            await asyncio.gather(task, return_exceptions=True)
        for line in self._held_up:
            self._refuse(line.index, exception_handlers.locked())

    def document(self) -> dict[str, Any]:
        """The result so far."""
        return {
            "accepted": len(self.jobs),
            "refused": len(self.errors),
            "jobs": sorted(self.jobs, key=itemgetter("index")),
            "errors": sorted(self.errors, key=itemgetter("index"))[:ERRORS_MAX],
        }

    def _take(self, asked: Any, *, size: int) -> bool:  # noqa: ANN401 - any JSON
        """Check one job; True if the slice is full."""
        index = self._next()
        try:
            job = self._intake.prepare(
                asked, origin=self._origin, key=self._key_of(asked, index), size=size
            )
        except Problem as problem:
            self._refuse(index, problem)
            return False
        self._slice.append(_Line(index, job, size))
        self._slice_bytes += size
        return len(self._slice) >= SLICE_MAX or self._slice_bytes >= SLICE_MAX_BYTES

    def _next(self) -> int:
        if self._index >= self._settings.batch_max_jobs:
            raise self._too_many()
        index = self._index
        self._index += 1
        return index

    def _key_of(self, asked: Any, index: int) -> str | None:  # noqa: ANN401 - any JSON
        """A key for the whole batch gives each job without its own one with its index."""
        if self._key is None or not isinstance(asked, dict) or asked.get("idempotency_key"):
            return None
        return f"{self._key}#{index}"

    def _refuse(self, index: int, problem: Problem) -> None:
        self.errors.append(problem.line(index))

    def _too_many(self) -> Problem:
        return TooLarge(
            Code.TOO_MANY_JOBS,
            f"A batch holds at most {self._settings.batch_max_jobs} jobs.",
            remedy="Send the rest in another batch.",
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

    async def _write(self, taken: Sequence[_Line]) -> None:
        held_up = await self._intake.accept_together(
            [line.job for line in taken], settle=self._settler(taken)
        )
        for position in held_up:
            self._held_up.append(taken[position])
            self._held_up_bytes += taken[position].size
        if self._held_up_bytes > HELD_UP_MAX_BYTES:
            await self.wait_for_locks()

    def _settler(self, lines: Sequence[_Line]) -> Settle:
        def settle(position: int, found: Accepted | Problem) -> None:
            line = lines[position]
            problem = found if isinstance(found, Problem) else refusal(line.job, found)
            if problem is not None:
                self._refuse(line.index, problem)
            elif not isinstance(found, Problem):
                self.jobs.append(_receipt(line.index, found))

        return settle


def _too_large(size_max: int) -> Problem:
    message = f"The job is larger than {size_max} bytes."
    return Problem(Code.BODY_TOO_LARGE, message, remedy="Send less, or a reference to it.")


def _receipt(index: int, accepted: Accepted) -> dict[str, Any]:
    line: dict[str, Any] = {"index": index, "id": accepted.id, "state": accepted.state}
    if not accepted.is_new:
        line["replayed"] = True
    return line
