"""Turns a request into a job to be accepted, or a Problem: validation, defaults, routing."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import to_json

from gateway import exception_handlers, job_request
from gateway.errors import Code, Problem
from ledger import ids
from ledger.consequences import CALLBACK_KIND
from ledger.shapes import NewJob
from runtime.errors import RelaisError
from tasks import routing
from tasks.kinds import lane_of
from tasks.outbound.guard import refuse_if_certain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.callers import Caller
    from gateway.clock import Clock
    from runtime.settings import Settings
    from tasks.kinds import Kind


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a job comes from: its caller, and the trace of the request that carried it."""

    caller: Caller
    traceparent: str
    trace_id: str


class Preparation:
    """Validates requests against their kinds."""

    def __init__(self, kinds: Mapping[str, Kind], clock: Clock, settings: Settings) -> None:
        """`settings` are those of the workers: what they are certain to refuse is refused here."""
        self._kinds = kinds
        self._settings = settings
        self._clock = clock

    def prepare(self, asked: Any, *, origin: Origin, key: str | None, size: int) -> NewJob:  # noqa: ANN401 - JSON
        """The job that `asked` (parsed JSON of `size` bytes) describes; raises Problem.

        `key` is an idempotency key from outside the body.
        """
        try:
            request = job_request.validate(asked)
        except ValidationError as error:
            raise exception_handlers.invalid_model(error) from error
        if request.get("run_at") is not None and request.get("delay_s") is not None:
            message = "body: run_at and delay_s cannot be combined."
            raise Problem(Code.VALUE_INVALID, message, field="body", remedy="Omit one of them.")
        kind = self._kind(request["kind"])
        payload = request.get("payload", {})
        try:
            kind.payload.model_validate(payload)
        except ValidationError as error:
            raise exception_handlers.invalid_model(error, under=("payload",)) from error
        self._refuse_what_is_certain_to_fail(kind, payload, request.get("callback_url"))
        key = _one_key(request.get("idempotency_key"), key)
        deadline = request.get("deadline")
        caller = origin.caller
        job = NewJob(
            id=ids.new(),
            tenant=caller.tenant,
            kind=kind.name,
            queue=routing.route(
                kind=kind,
                wish=request.get("queue"),
                payload_bytes=size,
                workflow_id=request.get("workflow_id"),
                left_s=None if deadline is None else (deadline - self._clock.now()).total_seconds(),
            ),
            lane=lane_of(kind.name, caller.tenant, payload) if kind.lane else None,
            payload=payload,
            payload_bytes=size,
            max_attempts=request.get("max_attempts") or kind.max_attempts,
            timeout_s=request.get("timeout_s") or kind.timeout_s,
            priority=request.get("priority", job_request.PRIORITY),
            run_at=request.get("run_at"),
            delay_s=request.get("delay_s"),
            deadline=deadline,
            idempotency_key=key,
            request_hash=_hash(asked) if key else None,
            callback_url=request.get("callback_url"),
            workflow_id=request.get("workflow_id"),
            tags=tuple(request.get("tags", ())),
            traceparent=origin.traceparent,
            trace_id=origin.trace_id,
            accepted_by=caller.name,
            depends_on=tuple(dict.fromkeys(request.get("depends_on", ()))),
            on_parent_failure=request.get("on_parent_failure", "fail"),
        )
        if key is None and self.is_late(job):
            raise too_late(job)
        return job

    def _refuse_what_is_certain_to_fail(
        self, kind: Kind, payload: Mapping[str, Any], callback_url: str | None
    ) -> None:
        for name, check in kind.requires.items():
            if name in payload:
                with _told_of(f"payload.{name}"):
                    check(payload[name], self._settings)
        if callback_url is not None:
            with _told_of("callback_url"):
                refuse_if_certain(callback_url, allow=self._settings.outbound_allow)

    def is_late(self, job: NewJob) -> bool:
        """Whether `job`, if it were new, could no longer start by its deadline."""
        if job.deadline is None:
            return False
        start = self._clock.now() + timedelta(seconds=job.delay_s or 0)
        return max(start, job.run_at or start) >= job.deadline

    def _kind(self, name: str) -> Kind:
        kind = self._kinds.get(name)
        if kind is None:
            raise Problem(
                Code.KIND_UNKNOWN,
                f"There is no kind {name!r}.",
                field="kind",
                remedy="GET /api/v1/kinds lists the kinds.",
            )
        if kind.internal:
            raise Problem(
                Code.KIND_INTERNAL,
                f"Jobs of the kind {name!r} are created by Relais itself and cannot be submitted.",
                field="kind",
                remedy=(
                    "Give a job a callback_url, or call a webhook with workflow.trigger."
                    if name == CALLBACK_KIND
                    else "GET /api/v1/kinds lists the kinds."
                ),
            )
        return kind


@contextmanager
def _told_of(name: str) -> Iterator[None]:
    """A RelaisError becomes a problem of the field `name`."""
    try:
        yield
    except RelaisError as error:
        message = f"{name}: {error.sentence}"
        raise Problem(
            Code.VALUE_INVALID, message, field=name, remedy=error.remedy or "Correct it."
        ) from error


def too_late(job: NewJob) -> Problem:
    """The problem of a job that could not start by its deadline."""
    return Problem(
        Code.VALUE_INVALID,
        f"deadline: the job could not start before {job.deadline}, its deadline.",
        field="deadline",
        remedy="Give it a later one; Postgres' clock decides.",
    )


def _one_key(in_body: str | None, outside: str | None) -> str | None:
    if in_body is not None and outside is not None and in_body != outside:
        raise Problem(
            Code.VALUE_INVALID,
            "The header Idempotency-Key and the field idempotency_key differ.",
            field="idempotency_key",
            remedy="Send one of them, or the same key in both.",
        )
    return in_body or outside


def _hash(asked: dict[str, Any]) -> bytes:
    """A digest of what was asked, the same however the JSON was written."""
    body = {name: value for name, value in asked.items() if name != "idempotency_key"}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).digest()


def size_of(payload: object) -> int:
    """How many bytes `payload` has as JSON."""
    return len(to_json(payload))
