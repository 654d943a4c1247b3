"""One attempt: load the kind, check the payload, start the timeout, perform, name the outcome."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from runtime import logs, telemetry
from tasks import kinds
from tasks.context import Context
from tasks.errors import TaskError
from tasks.kinds import Backoff, Kind
from tasks.outcomes import ErrorReport, Failed, RetryLater, Snooze, Succeeded
from workers import isolation
from workers.reports import error_report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from ledger.shapes import ClaimedJob
    from runtime.settings import Settings
    from tasks.outcomes import Outcome

    AsyncHandler = Callable[[Any, Context], Awaitable[Outcome]]

log = logs.logger("execute")

UNKNOWN_KIND_DELAY_S = 30.0  # the other colour may know it
DEFAULT_BACKOFF = Backoff()


class ProcessDied(Exception):  # noqa: N818 - an event, not an error of ours
    """The process of its own in which the job ran died; counted against the job alone."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every attempt of this worker shares."""

    settings: Settings
    database: AsyncEngine
    isolation: isolation.IsolationPool
    still_owned: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Performed:
    """How an attempt ended, and the traceparent of the span it ran in."""

    outcome: Outcome
    traceparent: str | None


def backoff_of(job: ClaimedJob) -> Backoff:
    """The job's own backoff, or its kind's."""
    if job.backoff:
        return Backoff(**job.backoff)
    kind = kinds.get(job.kind)
    return kind.backoff if kind else DEFAULT_BACKOFF


async def perform(job: ClaimedJob, around: Surroundings) -> Performed:
    """Run one claimed job; raises ProcessDied, Interrupted and CancelledError only."""
    kind = kinds.get(job.kind)
    if kind is None:
        reason = f"this worker does not know the kind {job.kind}"
        return Performed(Snooze(UNKNOWN_KIND_DELAY_S, reason), job.traceparent)
    with telemetry.span(
        f"run {job.kind}",
        kind="consumer",
        parent=job.traceparent,
        attributes={"job_id": str(job.id), "queue": job.queue, "attempt": job.attempt},
    ) as span:
        outcome = await _attempt(job, kind, around, span.traceparent)
        if not isinstance(outcome, Succeeded):
            span.set(outcome=type(outcome).__name__)
            if isinstance(outcome, (RetryLater, Failed)):
                span.fail(outcome.reason)
        return Performed(outcome, span.traceparent)


async def _attempt(job: ClaimedJob, kind: Kind, around: Surroundings, traceparent: str) -> Outcome:
    context = _context(job, around, traceparent)
    timer = asyncio.timeout(job.timeout_s)
    try:
        if kind.is_isolated or job.alone:
            return await around.isolation.run_kind(
                kind.name,
                job.payload,
                isolation.fields_of(context),
                job.timeout_s,
                still_owned=around.still_owned,
            )
        payload = kind.payload.model_validate(job.payload)
        async with timer:
            handler = cast("AsyncHandler", kind.handler)  # as `is_isolated` says
            return await handler(payload, context)
    except isolation.TimedOut:
        return _timed_out(job)
    except TimeoutError as error:  # the attempt's own, or of some socket inside the handler
        return _timed_out(job) if timer.expired() else _retry(error)
    except isolation.ChildDied as error:
        raise ProcessDied(str(error)) from error
    except isolation.Interrupted:
        raise
    except isolation.HandlerRaised as error:
        return RetryLater(f"{error.report.type}: {error.report.message}", error=error.report)
    except ValidationError as error:
        return Failed(_what_does_not_fit(error), error=error_report(error))
    except TaskError as error:
        return Failed(str(error), error=error_report(error))
    except Exception as error:  # noqa: BLE001 - whatever a handler raises is that attempt's error
        return _retry(error)


def _retry(error: BaseException) -> RetryLater:
    report = error_report(error)
    return RetryLater(f"{report.type}: {report.message}", error=report)


def _timed_out(job: ClaimedJob) -> RetryLater:
    report = ErrorReport("TimedOut", f"not done after {job.timeout_s:g} s")
    return RetryLater(f"timed out after {job.timeout_s:g} s", error=report)


def _context(job: ClaimedJob, around: Surroundings, traceparent: str) -> Context:
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
        isolate=_isolate(around, timeout_s=job.timeout_s),
        still_owned=around.still_owned,
    )


def _isolate(
    around: Surroundings, *, timeout_s: float
) -> Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]:
    async def isolate(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return await around.isolation.call(name, arguments, min(timeout_s, 30.0))

    return isolate


def _what_does_not_fit(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "payload"
    return f"the payload does not fit its kind: {field}: {first['msg']}"
