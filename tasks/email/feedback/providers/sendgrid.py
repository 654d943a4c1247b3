"""SendGrid's event webhook: an array of events, signed with ECDSA.

https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event and
.../getting-started-event-webhook-security-features. The signature covers timestamp and body.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pydantic_core import to_json

from runtime.errors import SettingsError
from tasks.email.feedback import report
from tasks.email.feedback.event import Batch, Cause, Event, Kind, Permanence
from tasks.email.feedback.providers import payload
from tasks.outbound.signature import WrongSignature

PROVIDER = "sendgrid"
TOLERANCE_S = 26 * 3600.0  # SendGrid tries for a day
SIGNATURE_HEADER = "x-twilio-email-event-webhook-signature"
TIMESTAMP_HEADER = "x-twilio-email-event-webhook-timestamp"

_KINDS = {
    "delivered": Kind.DELIVERED,
    "bounce": Kind.BOUNCED,
    "dropped": Kind.BOUNCED,
    "deferred": Kind.DEFERRED,
    "spamreport": Kind.COMPLAINED,
    "unsubscribe": Kind.UNSUBSCRIBED,
    "group_unsubscribe": Kind.UNSUBSCRIBED,
    "open": Kind.OPENED,
    "click": Kind.OPENED,
}
# Why SendGrid did not even try.
_DROPPED: dict[str, tuple[Kind, Cause | None]] = {
    "bounced address": (Kind.BOUNCED, Cause.ADDRESS),
    "invalid": (Kind.BOUNCED, Cause.ADDRESS),
    "spam reporting address": (Kind.COMPLAINED, None),
    "unsubscribed address": (Kind.UNSUBSCRIBED, None),
}
_CLASSIFICATIONS = {
    "invalid address": Cause.ADDRESS,
    "content": Cause.MESSAGE,
    "reputation": Cause.POLICY,
    "frequency or volume too high": Cause.POLICY,
    "frequency/volume": Cause.POLICY,
}


def read(
    *,
    body: bytes,
    headers: Mapping[str, str],
    keys: Sequence[str],
    now: datetime | None = None,
    tolerance_s: float = TOLERANCE_S,
) -> Batch:
    """The events in a request; `keys`: verification keys as SendGrid shows them (base64 DER)."""
    timestamp = headers.get(TIMESTAMP_HEADER, "")
    _verify(body, timestamp, headers.get(SIGNATURE_HEADER, ""), keys)
    now = now or datetime.now(UTC)
    payload.require_fresh(payload.moment(timestamp), now=now, tolerance_s=tolerance_s)
    told = payload.load(body, provider="SendGrid")
    if not isinstance(told, list) or not all(isinstance(one, dict) for one in told):
        payload.refuse("SendGrid", "the body", "is no array of events")
    if len(told) > payload.EVENTS_MAX:
        payload.refuse("SendGrid", "the array", f"has more than {payload.EVENTS_MAX} events")
    events = [event for one in told if (event := _event(one))]
    # Not from the signature: of an ECDSA signature anybody can make a second one that holds.
    replay_id = f"sendgrid:{payload.digest(timestamp.encode(), body)}"
    return Batch(tuple(events), replay_id, ignored=len(told) - len(events))


def _event(data: dict[str, Any]) -> Event | None:
    kind = _KINDS.get(payload.text(data, "event") or "")
    if kind is None:
        return None
    words = payload.text(data, "reason", "response")
    kind, permanence, cause = _meaning(kind, data, words)
    return Event(
        provider=PROVIDER,
        id=payload.text(data, "sg_event_id") or payload.digest(to_json(data)),
        kind=kind,
        recipient=payload.text(data, "email"),
        permanence=permanence,
        cause=cause,
        status=_status(payload.text(data, "status"), words),
        reason=words,
        at=payload.moment(data.get("timestamp")),
        message_id=payload.message_id(payload.text(data, "smtp-id")),
        relais_id=payload.relais_id(data),  # unique arguments stand among the event's own fields
        provider_message_id=payload.text(data, "sg_message_id"),
    )


def _meaning(
    kind: Kind, data: dict[str, Any], words: str | None
) -> tuple[Kind, Permanence | None, Cause | None]:
    if kind is not Kind.BOUNCED:
        return kind, None, None
    if payload.text(data, "event") == "dropped":
        dropped, cause = _DROPPED.get((words or "").lower(), (Kind.BOUNCED, Cause.MESSAGE))
        return dropped, Permanence.PERMANENT if dropped is Kind.BOUNCED else None, cause
    classified = (payload.text(data, "bounce_classification") or "").lower()
    match payload.text(data, "type"):
        case "blocked":  # for now, as SendGrid says: it goes on sending to the address
            return kind, Permanence.TRANSIENT, _CLASSIFICATIONS.get(classified, Cause.POLICY)
        case "expired":
            return kind, Permanence.TRANSIENT, _CLASSIFICATIONS.get(classified)
    return kind, Permanence.PERMANENT, _CLASSIFICATIONS.get(classified)


def _status(stated: str | None, words: str | None) -> str | None:
    """The field, or what the host said where the field is missing or as vague as 5.0.0."""
    found = report.status_in(stated or "")
    said = report.status_in(words or "")
    return said if said and (found is None or found.endswith(".0.0")) else found


def _verify(body: bytes, timestamp: str, signature: str, keys: Sequence[str]) -> None:
    if not timestamp or not signature:
        sentence = "The request carries no complete signature."
        remedy = "Switch on the signed event webhook at SendGrid."
        raise WrongSignature(sentence, remedy=remedy)
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    signed = timestamp.encode("utf-8", "surrogateescape") + body
    if not any(_holds(_key(key), raw, signed) for key in keys):
        sentence = "The signature belongs to another key, or the body was changed."
        raise WrongSignature(sentence, remedy="Check the verification key of the webhook.")


def _holds(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _key(text: str) -> ec.EllipticCurvePublicKey:
    key: object = None
    with contextlib.suppress(ValueError, UnsupportedAlgorithm):
        key = load_der_public_key(base64.b64decode(text, validate=True))
    if not isinstance(key, ec.EllipticCurvePublicKey):
        sentence = "SendGrid's verification key is no public key of an elliptic curve."
        remedy = "Copy it from Mail Settings, Event Webhook; it begins with MFkw."
        raise SettingsError(sentence, remedy=remedy)
    return key
