"""Mailgun's webhooks: one event a request, signed within the body.

https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/. HMAC-SHA256 of timestamp and
token, as hexadecimal digits, with the webhook signing key. It does not cover the event: TLS does.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from tasks.email.feedback import report
from tasks.email.feedback.event import Batch, Cause, Event, Kind, Permanence
from tasks.email.feedback.providers import payload
from tasks.outbound.signature import WrongSignature

PROVIDER = "mailgun"
TOLERANCE_S = 9 * 3600.0  # Mailgun tries for eight hours

_KINDS = {
    "delivered": Kind.DELIVERED,
    "failed": Kind.BOUNCED,
    "complained": Kind.COMPLAINED,
    "unsubscribed": Kind.UNSUBSCRIBED,
    "opened": Kind.OPENED,
    "clicked": Kind.OPENED,
}
# Mailgun did not even try: the address is on its own lists.
_SUPPRESSED: dict[str, tuple[Kind, Cause | None]] = {
    "suppress-bounce": (Kind.BOUNCED, Cause.ADDRESS),
    "suppress-complaint": (Kind.COMPLAINED, None),
    "suppress-unsubscribe": (Kind.UNSUBSCRIBED, None),
}


def read(
    *,
    body: bytes,
    headers: Mapping[str, str],  # noqa: ARG001 - every provider is given both
    keys: Sequence[str],
    now: datetime | None = None,
    tolerance_s: float = TOLERANCE_S,
) -> Batch:
    """The event in a request; `keys`: the webhook signing keys, two while rotating."""
    data = payload.load(body, provider="Mailgun")
    token = _verify(payload.mapping(data, "signature"), keys, now or datetime.now(UTC), tolerance_s)
    told = payload.mapping(data, "event-data")
    name = payload.text(told, "event")
    if name is None:
        payload.refuse("Mailgun", "event-data.event", "is missing")
    replay_id = f"mailgun:{token}"
    kind = _KINDS.get(name)
    if kind is None:
        return Batch((), replay_id, ignored=1)
    permanence: Permanence | None = None
    cause: Cause | None = None
    if kind is Kind.BOUNCED:
        is_final = payload.text(told, "severity") != "temporary"
        permanence = Permanence.PERMANENT if is_final else Permanence.TRANSIENT
        reason = payload.text(told, "reason") or ""
        kind, cause = _SUPPRESSED.get(reason, (kind if is_final else Kind.DEFERRED, None))
    said = payload.mapping(told, "delivery-status")
    words = payload.text(said, "message", "description") or payload.text(told, "reason")
    message = payload.mapping(payload.mapping(told, "message"), "headers")
    event = Event(
        provider=PROVIDER,
        # `id` is unique within a day only.
        id=payload.digest((payload.text(told, "id") or token).encode(), _second(told)),
        kind=kind,
        recipient=payload.text(told, "recipient"),
        permanence=permanence,
        cause=cause,
        status=_status(payload.text(said, "enhanced-code"), words),
        reason=words,
        at=payload.moment(told.get("timestamp")),
        message_id=payload.message_id(payload.text(message, "message-id")),
        relais_id=payload.relais_id(payload.mapping(told, "user-variables")),
        provider_message_id=payload.text(message, "message-id"),
    )
    return Batch((event,), replay_id)


def _verify(
    signature: dict[str, object], keys: Sequence[str], now: datetime, tolerance_s: float
) -> str:
    """The token, once it is proven."""
    timestamp, token = payload.text(signature, "timestamp"), payload.text(signature, "token")
    shown = payload.text(signature, "signature")
    if timestamp is None or token is None or shown is None:
        sentence = "The request carries no complete signature."
        raise WrongSignature(sentence)
    signed = f"{timestamp}{token}".encode()
    known = [
        hmac.compare_digest(
            hmac.new(key.encode(), signed, hashlib.sha256).hexdigest().encode(),
            shown.lower().encode(),
        )
        for key in keys
        if key
    ]
    if not any(known):
        sentence = "The signature belongs to another key, or timestamp or token were changed."
        raise WrongSignature(sentence, remedy="Check Mailgun's webhook signing key.")
    payload.require_fresh(payload.moment(timestamp), now=now, tolerance_s=tolerance_s)
    return token


def _second(told: dict[str, object]) -> bytes:
    return str(told.get("timestamp"))[:40].encode("utf-8", "replace")


def _status(stated: str | None, words: str | None) -> str | None:
    return report.status_in(stated or "") or report.status_in(words or "")
