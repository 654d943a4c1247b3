"""The kind `http.callback`: sends a caller a signed report of how its job ended."""

from __future__ import annotations

import json
import random
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from ledger import dependence
from runtime import telemetry
from tasks.errors import BlockedAddress, Unreachable
from tasks.kinds import Backoff, kind
from tasks.outbound import client, signature
from tasks.outcomes import ErrorReport, Failed, Outcome, RetryLater, Succeeded

if TYPE_CHECKING:
    from tasks.context import Context
    from tasks.outbound.client import Response

MINUTE_S, HOUR_S = 60.0, 3_600.0
_EARLY_S = (5.0, 30.0, 2 * MINUTE_S, 10 * MINUTE_S)
SCHEDULE_S = (*_EARLY_S, HOUR_S, 4 * HOUR_S, 12 * HOUR_S, 24 * HOUR_S, 24 * HOUR_S)
ATTEMPTS = len(SCHEDULE_S) + 1
RETRY_AFTER_MAX_S = 24 * HOUR_S
# Responses that seldom change with time: retried for some minutes, not three days. 404 and 409 are
# n8n's responses until a workflow has reached its Wait node, and again after it has ended.
SELDOM_CHANGE = frozenset({400, 404, 405, 409, 413, 414, 415, 422, 431})
SELDOM_CHANGE_TRIES = 5
GONE = 410


class Callback(BaseModel):
    """Where to send the report, and its content."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "url": "https://n8n.example.com/webhook/done",
                    "body": {"type": "job.succeeded", "data": {"id": "0197..."}},
                }
            ]
        },
    )

    url: str = Field(
        max_length=4096,
        description="http or https; outside your network, or named in RELAIS_OUTBOUND_ALLOW.",
        examples=["https://n8n.example.com/webhook/done"],
    )
    body: dict[str, Any] = Field(description="Sent as JSON, the same bytes on every attempt.")


@kind(
    "http.callback",
    payload=Callback,
    queue="callback",
    max_attempts=ATTEMPTS,
    timeout_s=60.0,
    backoff=Backoff(schedule_s=SCHEDULE_S),
    internal=True,  # its signature says that it comes from Relais
    lane=lambda payload: dependence.on_host(payload["url"]),
)
async def call_back(payload: Callback, context: Context) -> Outcome:
    """POST a JSON body to a URL, signed according to Standard Webhooks, for up to three days.

    Any 2xx is success and 410 ends it; everything else is retried. The SSRF guard checks the
    destination on every attempt.
    """
    masters = context.settings.callback_secret.get_secret_value()
    if not masters.strip():
        return RetryLater("RELAIS_CALLBACK_SECRET is not set; callbacks are never sent unsigned")
    try:
        secrets = signature.endpoint_secrets(masters, tenant=context.tenant, url=payload.url)
    except BlockedAddress as error:
        return Failed(str(error), error=ErrorReport("BlockedAddress", str(error)))
    body = body_of(payload.body)
    with telemetry.span("callback POST", kind="client", attributes={"method": "POST"}) as span:
        headers = {
            "content-type": "application/json",
            "user-agent": f"Relais/{context.settings.version}",
            **telemetry.inject(span),
            **signature.headers_of(
                message_id=f"msg_{context.job_id}",
                body=body,
                secrets=signature.secrets_of(" ".join(secrets)),
                timestamp=int(context.now()),
            ),
        }
        request = client.Request(method="POST", url=payload.url, headers=headers, content=body)
        try:
            answer = await client.Client.of(context.settings).send(request)
        except BlockedAddress as error:
            span.fail(error.sentence)
            return Failed(str(error), error=ErrorReport("BlockedAddress", str(error)))
        except Unreachable as error:
            span.fail(error.sentence)
            return RetryLater(error.sentence, error=ErrorReport("Unreachable", error.sentence))
        span.set(status=answer.status)
    # Not the attempt's number: an attempt whose worker died sent the receiver nothing.
    return outcome_of(answer, tries=ATTEMPTS - context.tries_left, now=context.now())


def body_of(content: dict[str, Any]) -> bytes:
    """The bytes that are signed and sent; equal for equal content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def outcome_of(answer: Response, *, tries: int, now: float) -> Outcome:
    """What the response to try number `tries` means for the callback; `now` as `context.now()`."""
    status = answer.status
    if 200 <= status < 300:
        return Succeeded({"status": status})
    reason = f"the receiver responded with {status}"
    error = ErrorReport("UnwelcomeAnswer", reason)
    if status == GONE:
        return Failed(f"{reason}: it does not want this callback any more", error=error)
    is_redirect = 300 <= status < 400
    if is_redirect:
        reason += " (redirects are not followed: use the final URL)"
    if (is_redirect or status in SELDOM_CHANGE) and tries >= SELDOM_CHANGE_TRIES:
        return Failed(f"{reason}, {tries} times", error=error)
    return RetryLater(reason, delay_s=retry_after_s(answer, now=now), error=error)


def retry_after_s(answer: Response, *, now: float) -> float | None:
    """The wait that Retry-After asks for, plus jitter, a day at most; None if there is none."""
    value = answer.headers.get("retry-after", "").strip()
    if not value or answer.status not in {429, 503}:
        return None
    if value.isdecimal():
        wanted_s = float(value[:12])
    else:
        at = _epoch_s(value)
        if at is None:
            return None
        sent_at = _epoch_s(answer.headers.get("date", ""))  # by the clock that `at` refers to
        wanted_s = at - (now if sent_at is None else sent_at)
    # All callers were given the same time: come a little later, not all at once.
    jitter = 1 + 0.1 * random.random()  # noqa: S311 - spreads load, guards nothing
    return min(max(wanted_s, 1.0) * jitter, RETRY_AFTER_MAX_S)


def _epoch_s(date: str) -> float | None:
    """An HTTP date as seconds since 1970; None if it is not valid."""
    try:
        at = parsedate_to_datetime(date)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
