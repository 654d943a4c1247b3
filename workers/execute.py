"""One attempt: load the kind, validate the payload, run the handler, determine the outcome."""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from runtime import logs, telemetry
from runtime.errors import words_of
from tasks import kinds
from tasks.context import Context
from tasks.errors import TaskError
from tasks.kinds import Backoff, Kind
from tasks.outcomes import ErrorReport, Failed, RetryLater, Snooze, Succeeded
from workers import sealing
from workers.isolation import pool
from workers.reports import error_report
from workers.sealing import Sealed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from ledger.shapes import ClaimedJob
    from runtime.settings import Settings
    from tasks.outcomes import Outcome
    from workers.executor import Fence

    AsyncHandler = Callable[[Any, Context], Awaitable[object]]

log = logs.logger("execute")

UNKNOWN_KIND_DELAY_S = 30.0  # the other colour may know it
DEFAULT_BACKOFF = Backoff()


class ProcessDied(Exception):  # noqa: N818 - an event, not an error of ours
    """The isolated process in which the job ran died.

    `by_itself`: by an exit or a fault of its own, not by a signal that others send.
    """

    def __init__(self, what: str, *, by_itself: bool) -> None:
        super().__init__(what)
        self.by_itself = by_itself


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every attempt of this worker shares; `database` is the handlers' own pool."""

    settings: Settings
    database: AsyncEngine
    isolation: pool.IsolationPool
    still_owned: Callable[[Fence], bool]


@dataclass(frozen=True, slots=True)
class Performed:
    """An attempt's sealed outcome, and the traceparent of the span it ran in."""

    sealed: Sealed
    traceparent: str | None

    @property
    def outcome(self) -> Outcome:
        """The outcome, fit for the ledger."""
        return self.sealed.outcome


def backoff_of(job: ClaimedJob) -> Backoff:
    """The job's own backoff, or its kind's."""
    if job.backoff:
        return Backoff(**job.backoff)
    kind = kinds.get(job.kind)
    return kind.backoff if kind else DEFAULT_BACKOFF


def performed(job: ClaimedJob, around: Surroundings, outcome: Outcome) -> Performed:
    """The result of an attempt that ended outside its handler."""
    limit = around.settings.outcome_max_bytes
    return Performed(sealing.sealed(outcome, max_bytes=limit), job.traceparent)


def runs_apart(job: ClaimedJob) -> bool:
    """Whether the job runs in its own process, which is killed when its time is up."""
    kind = kinds.get(job.kind)
    return job.alone or (kind is not None and kind.is_isolated)


async def perform(
    job: ClaimedJob,
    around: Surroundings,
    *,
    is_out_of_time: Callable[[], bool],
    waiting: pool.Waiting = nullcontext,
) -> Performed:
    """Run one claimed job; raises ProcessDied, Interrupted and CancelledError only.

    Whoever cancels it for having been too long says so by `is_out_of_time`. It waits within
    `waiting()` for a process to render in: that is no time of its own.
    """
    kind = kinds.get(job.kind)
    if kind is None:
        reason = f"this worker does not know the kind {job.kind}"
        return performed(job, around, Snooze(UNKNOWN_KIND_DELAY_S, reason))
    if job.is_late:
        return performed(job, around, Failed("its deadline passed before it could run"))
    with telemetry.span(
        f"run {job.kind}",
        kind="consumer",
        parent=job.traceparent,
        attributes={"job_id": str(job.id), "queue": job.queue, "attempt": job.attempt},
    ) as span:
        traceparent = span.traceparent
        context = _context(job, around, traceparent, waiting)
        returned = await _attempt(job, kind, around, context, is_out_of_time)
        sealed = sealing.sealed(returned, max_bytes=around.settings.outcome_max_bytes)
        outcome = sealed.outcome
        if not isinstance(outcome, Succeeded):
            span.set(outcome=type(outcome).__name__)
            if isinstance(outcome, (RetryLater, Failed)):
                span.fail(outcome.reason)
        return Performed(sealed, traceparent)


async def _attempt(
    job: ClaimedJob,
    kind: Kind,
    around: Surroundings,
    context: Context,
    is_out_of_time: Callable[[], bool],
) -> object:
    """What the handler returned, or the outcome that its exception stands for."""
    try:
        if kind.is_isolated or job.alone:
            return await _run_apart(job, kind, around, context)
        return await _run(job, kind, context)
    except asyncio.CancelledError:
        if is_out_of_time():
            return timed_out(job)
        raise  # handled by the caller
    except pool.Interrupted:
        raise
    except pool.ChildDied as error:
        raise ProcessDied(str(error), by_itself=error.by_itself) from error
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises, even SystemExit, ends
        return _outcome_of(error)  # its attempt, and nothing else


async def _run(job: ClaimedJob, kind: Kind, context: Context) -> object:
    try:
        payload = kind.payload.model_validate(job.payload)
    except ValidationError as error:
        return Failed(_what_does_not_fit(error), error=error_report(error))
    handler = cast("AsyncHandler", kind.handler)  # as `is_isolated` says
    return await handler(payload, context)


async def _run_apart(job: ClaimedJob, kind: Kind, around: Surroundings, context: Context) -> object:
    fields = pool.fields_of(context)
    try:
        return await around.isolation.run_kind(
            kind.name, job.payload, fields, job.timeout_s, still_owned=context.still_owned
        )
    except pool.TimedOut:
        return timed_out(job)


def _outcome_of(error: BaseException) -> Outcome:
    match error:
        case pool.HandlerRaised(report=report):
            return RetryLater(f"{report.type}: {report.message}", error=report)
        case TaskError():
            reason = sealing.plain_text(error, max_bytes=sealing.REASON_MAX_BYTES)
            return Failed(reason, error=error_report(error))
    report = error_report(error)
    return RetryLater(f"{report.type}: {report.message}", error=report)


def timed_out(job: ClaimedJob) -> RetryLater:
    """The outcome of an attempt that timed out."""
    report = ErrorReport("TimedOut", f"not done after {job.timeout_s:g} s")
    return RetryLater(f"timed out after {job.timeout_s:g} s", error=report)


def _context(
    job: ClaimedJob, around: Surroundings, traceparent: str, waiting: pool.Waiting
) -> Context:
    return Context(
        job_id=job.id,
        attempt=job.attempt,
        kind=job.kind,
        queue=job.queue,
        tenant=job.tenant,
        tries_left=job.tries_left,
        settings=around.settings,
        database=around.database,
        workflow_id=job.workflow_id,
        traceparent=traceparent,
        tags=tuple(job.tags),
        deaths=job.deaths,
        clock_offset_s=job.started_at.timestamp() - time.monotonic(),
        isolate=_isolate(around, timeout_s=job.timeout_s, waiting=waiting),
        still_owned=partial(around.still_owned, job.fence),
    )


def _isolate(
    around: Surroundings, *, timeout_s: float, waiting: pool.Waiting
) -> Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]:
    async def isolate(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        within_s = min(timeout_s, 30.0)
        return await around.isolation.call(name, arguments, within_s, waiting=waiting)

    return isolate


def _what_does_not_fit(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "payload"
    return f"the payload does not fit its kind: {field}: {words_of(first)}"
