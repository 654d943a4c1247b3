"""Postmark's webhooks: one JSON object a request, told apart by RecordType.

https://postmarkapp.com/developer/webhooks/webhooks-overview. Postmark signs nothing; the proof is
the secret in the webhook's URL or headers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.email.feedback import report
from tasks.email.feedback.event import Batch, Cause, Event, Kind, Permanence
from tasks.email.feedback.providers import payload, shared_secret

PROVIDER = "postmark"

_Meaning = tuple[Kind, Permanence | None, Cause | None]
_TRANSIENT: _Meaning = (Kind.BOUNCED, Permanence.TRANSIENT, None)
_DEFERRED: _Meaning = (Kind.DEFERRED, None, None)
_BLOCKED: _Meaning = (Kind.BOUNCED, Permanence.PERMANENT, Cause.POLICY)
_BAD: _Meaning = (Kind.BOUNCED, Permanence.PERMANENT, Cause.ADDRESS)
_COMPLAINT: _Meaning = (Kind.COMPLAINED, None, None)
_UNSUBSCRIBED: _Meaning = (Kind.UNSUBSCRIBED, None, None)
# https://postmarkapp.com/developer/api/bounce-api#bounce-types; what is missing says nothing about
# the address (AutoResponder, AddressChange, ChallengeVerification, OpenRelayTest, Subscribe, ...).
_TYPES: dict[str, _Meaning] = {
    "HardBounce": (Kind.BOUNCED, Permanence.PERMANENT, None),
    "BadEmailAddress": _BAD,
    "Transient": _DEFERRED,
    "DnsError": _TRANSIENT,
    "SoftBounce": _TRANSIENT,
    "Undeliverable": _TRANSIENT,
    "Unknown": (Kind.BOUNCED, Permanence.UNDETERMINED, None),
    "Blocked": _BLOCKED,
    "DMARCPolicy": _BLOCKED,
    "VirusNotification": (Kind.BOUNCED, Permanence.PERMANENT, Cause.MESSAGE),
    "SpamNotification": _BLOCKED,
    "SpamComplaint": _COMPLAINT,
    "ManuallyDeactivated": _UNSUBSCRIBED,
    "Unsubscribe": _UNSUBSCRIBED,
    "ManualSuppression": _UNSUBSCRIBED,
}


def read(*, body: bytes, headers: Mapping[str, str], secrets: Sequence[str]) -> Batch:
    """The event in a request; `secrets` as `shared_secret.secrets_of` gives them."""
    shared_secret.verify(headers, secrets=secrets, provider="Postmark")
    data = payload.load(body, provider="Postmark")
    replay_id = f"postmark:{payload.digest(body)}"
    record = payload.text(data, "RecordType")
    if record is None:
        payload.refuse("Postmark", "RecordType", "is missing")
    meaning = _meaning(record, data)
    if meaning is None:
        return Batch((), replay_id, ignored=1)
    kind, permanence, cause = meaning
    details = payload.text(data, "Details", "Description")
    number = payload.text(data, "ID")
    event = Event(
        provider=PROVIDER,
        # Only bounces and complaints have a number; the rest is told again byte for byte.
        id=f"{record}:{number}" if number else payload.digest(body),
        kind=kind,
        recipient=payload.text(data, "Email", "Recipient"),
        permanence=permanence,
        cause=cause,
        status=report.status_in(details or ""),
        reason=details,
        at=payload.moment(
            payload.text(data, "BouncedAt", "DeliveredAt", "ChangedAt", "ReceivedAt")
        ),
        relais_id=payload.relais_id(payload.mapping(data, "Metadata")),
        provider_message_id=payload.text(data, "MessageID"),
    )
    return Batch((event,), replay_id)


def _meaning(record: str, data: object) -> _Meaning | None:
    match record:
        case "Delivery":
            return Kind.DELIVERED, None, None
        case "Open" | "Click":
            return Kind.OPENED, None, None
        case "Bounce":
            return _TYPES.get(payload.text(data, "Type") or "")
        case "SpamComplaint":
            return _COMPLAINT
        case "SubscriptionChange":
            if isinstance(data, dict) and data.get("SuppressSending") is True:
                reason = payload.text(data, "SuppressionReason") or "ManualSuppression"
                return _TYPES.get(reason, _UNSUBSCRIBED)
    return None
