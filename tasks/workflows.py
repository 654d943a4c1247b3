"""The kind `workflow.trigger`: starts a workflow by its webhook, in n8n or elsewhere."""

from __future__ import annotations

import re
from contextlib import suppress
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import from_json, to_json

from ledger import dependence
from runtime import telemetry
from tasks.callbacks import retry_after_s
from tasks.errors import BlockedAddress, Unreachable
from tasks.kinds import Backoff, kind
from tasks.outbound import client
from tasks.outbound.guard import refuse_if_certain
from tasks.outcomes import ErrorReport, Failed, Outcome, RetryLater, Succeeded, Unknown

if TYPE_CHECKING:
    from tasks.context import Context
    from tasks.outbound.client import Response

ANSWER_MAX_BYTES = 262_144
PASSING = frozenset({404, 408, 409, 425, 429})  # 404: n8n, while the workflow is being activated
HEADERS = frozenset({"accept", "accept-language", "api-key", "apikey", "authorization"})
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
_NAME = re.compile(r"[a-z0-9-]+")


def _checked_headers(headers: dict[str, str]) -> dict[str, str]:
    checked: dict[str, str] = {}
    for given, value in headers.items():
        name = given.lower()
        if not _NAME.fullmatch(name) or not (name in HEADERS or name.startswith("x-")):
            message = (
                f"the header {given!r} may not be set; use X-... or {', '.join(sorted(HEADERS))}"
            )
            raise ValueError(message)
        if not _VALUE.fullmatch(value):
            message = f"the header {given!r} has a value that is not plain ASCII on one line"
            raise ValueError(message)
        checked[name] = value
    return checked


class Trigger(BaseModel):
    """Which webhook to call, and with what."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "url": "https://n8n.example.com/webhook/nightly-report",
                    "body": {"day": "2026-11-21"},
                    "headers": {"X-Api-Key": "..."},
                }
            ]
        },
    )

    url: str = Field(
        max_length=4096,
        description="http or https; outside your network, or named in RELAIS_OUTBOUND_ALLOW.",
        examples=["https://n8n.example.com/webhook/nightly-report"],
    )
    method: Literal["POST", "GET", "PUT"] = Field("POST", description="GET has no body.")
    body: JsonValue = Field(None, description="Sent as JSON.")
    headers: Annotated[dict[str, str], AfterValidator(_checked_headers)] = Field(
        default_factory=dict,
        max_length=20,
        description="X-... and a few others such as Authorization. They are kept with the job.",
    )
    expect_status: list[Annotated[int, Field(ge=200, le=599)]] = Field(
        default_factory=list, max_length=20, description="Statuses that mean success; any 2xx."
    )
    policy: Literal["at_least_once", "at_most_once"] = Field(
        "at_least_once",
        description="When the response is lost: call again with the same Idempotency-Key, "
        "or leave the job `unknown` for a person.",
    )

    @model_validator(mode="after")
    def _no_body_with_get(self) -> Self:
        if self.method == "GET" and self.body is not None:
            message = "a GET has no body: put its data into the URL"
            raise ValueError(message)
        return self


@kind(
    "workflow.trigger",
    payload=Trigger,
    queue="callback",
    max_attempts=8,
    timeout_s=90.0,
    backoff=Backoff(base_s=2.0, cap_s=600.0),
    lane=lambda payload: dependence.on_host(payload["url"]),
    requires={"url": lambda url, settings: refuse_if_certain(url, allow=settings.outbound_allow)},
)
async def trigger(payload: Trigger, context: Context) -> Outcome:
    """Start a workflow by its webhook and keep the response.

    The result is `{"status": ..., "body": ...}`. Every attempt carries the job's id as
    Idempotency-Key, so that a workflow can recognise a repetition.
    """
    content = b"" if payload.body is None else to_json(payload.body)
    with telemetry.span(
        "workflow trigger", kind="client", attributes={"method": payload.method}
    ) as span:
        headers = {
            **payload.headers,
            "user-agent": f"Relais/{context.settings.version}",
            "idempotency-key": str(context.job_id),
            "webhook-id": f"msg_{context.job_id}",
            **telemetry.inject(span),
            **({"content-type": "application/json"} if content else {}),
        }
        request = client.Request(
            method=payload.method,
            url=payload.url,
            headers=headers,
            content=content,
            total_s=60.0,
            answer_max_bytes=ANSWER_MAX_BYTES,
        )
        try:
            answer = await client.Client.of(context.settings).send(request)
        except BlockedAddress as error:
            span.fail(error.sentence)
            return Failed(str(error), error=ErrorReport("BlockedAddress", str(error)))
        except Unreachable as error:
            span.fail(error.sentence)
            report = ErrorReport("Unreachable", error.sentence)
            if error.was_sent and payload.policy == "at_most_once":
                return Unknown(f"{error.sentence} The workflow may have run.")
            return RetryLater(error.sentence, error=report)
        span.set(status=answer.status)
    return _outcome(answer, payload, now=context.now())


def _outcome(answer: Response, payload: Trigger, *, now: float) -> Outcome:
    status = answer.status
    result = {"status": status, "body": _content(answer), "cut": answer.is_cut}
    expected = payload.expect_status or range(200, 300)
    if status in expected:
        return Succeeded(result)
    reason = f"the webhook responded with {status}"
    report = ErrorReport("UnwelcomeAnswer", reason)
    if status in PASSING:
        return RetryLater(reason, delay_s=retry_after_s(answer, now=now), error=report)
    if status >= 500:
        if payload.policy == "at_most_once":
            return Unknown(f"{reason}; the workflow may have run in part", result=result)
        return RetryLater(reason, delay_s=retry_after_s(answer, now=now), error=report)
    return Failed(reason, error=report, result=result)


def _content(answer: Response) -> JsonValue:
    """The body as JSON if it is JSON, else as text without what the database refuses."""
    if not answer.is_cut and "json" in answer.headers.get("content-type", ""):
        with suppress(ValueError):
            return _storable(from_json(answer.body, allow_inf_nan=False))
    return answer.body.decode(errors="replace").replace("\x00", "")


def _storable(value: JsonValue) -> JsonValue:
    """`value` as jsonb accepts it: no NUL in its texts; ValueError for a number beyond a double."""
    if isinstance(value, float) and not isfinite(value):  # from 1e400; JSON has no infinity
        raise ValueError
    if isinstance(value, str):
        return value.replace("\x00", "")
    if isinstance(value, list):
        return [_storable(each) for each in value]
    if isinstance(value, dict):
        return {key.replace("\x00", ""): _storable(each) for key, each in value.items()}
    return value
