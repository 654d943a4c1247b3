"""Brevo's webhooks for transactional mail: an object a request, or an array where it batches.

https://developers.brevo.com/docs/transactional-webhooks and /docs/secured-webhooks. Brevo signs
nothing; the proof is the secret in the webhook's URL or a bearer token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from tasks.email.feedback import report
from tasks.email.feedback.event import Batch, Cause, Event, Kind, Permanence
from tasks.email.feedback.providers import payload, shared_secret

PROVIDER = "brevo"

_Meaning = tuple[Kind, Permanence | None, Cause | None]
_OPENED: _Meaning = (Kind.OPENED, None, None)
_COMPLAINT: _Meaning = (Kind.COMPLAINED, None, None)
_TYPES: dict[str, _Meaning] = {
    "delivered": (Kind.DELIVERED, None, None),
    "hard_bounce": (Kind.BOUNCED, Permanence.PERMANENT, None),
    "soft_bounce": (Kind.BOUNCED, Permanence.TRANSIENT, None),
    "invalid_email": (Kind.BOUNCED, Permanence.PERMANENT, Cause.ADDRESS),
    # Brevo did not send, because the address is on its own list, for whatever reason.
    "blocked": (Kind.BOUNCED, Permanence.UNDETERMINED, Cause.POLICY),
    "error": (Kind.BOUNCED, Permanence.UNDETERMINED, Cause.MESSAGE),
    "deferred": (Kind.DEFERRED, None, None),
    "spam": _COMPLAINT,
    "complaint": _COMPLAINT,
    "unsubscribed": (Kind.UNSUBSCRIBED, None, None),
    "unsubscribe": (Kind.UNSUBSCRIBED, None, None),
    "opened": _OPENED,
    "unique_opened": _OPENED,
    "proxy_open": _OPENED,
    "unique_proxy_open": _OPENED,
    "click": _OPENED,
}


def read(*, body: bytes, headers: Mapping[str, str], secrets: Sequence[str]) -> Batch:
    """The events in a request; `secrets` as `shared_secret.secrets_of` gives them."""
    shared_secret.verify(headers, secrets=secrets, provider="Brevo")
    data = payload.load(body, provider="Brevo")
    told = data if isinstance(data, list) else [data]
    if len(told) > payload.EVENTS_MAX:
        payload.refuse("Brevo", "the array", f"has more than {payload.EVENTS_MAX} events")
    named = [one for one in told if isinstance(one, dict) and payload.text(one, "event")]
    if len(named) < len(told):
        payload.refuse("Brevo", "event", "is missing")
    events = [event for one in named if (event := _event(one))]
    replay_id = f"brevo:{payload.digest(body)}"
    return Batch(tuple(events), replay_id, ignored=len(told) - len(events))


def _event(data: dict[str, Any]) -> Event | None:
    meaning = _TYPES.get(payload.text(data, "event") or "")
    if meaning is None:
        return None
    kind, permanence, cause = meaning
    reason = payload.text(data, "reason")
    return Event(
        provider=PROVIDER,
        id=payload.digest(to_json(data)),  # `id` is that of the account
        kind=kind,
        recipient=payload.text(data, "email"),
        permanence=permanence,
        cause=cause,
        status=report.status_in(reason or ""),
        reason=reason,
        # The other times are in the time zone of the account.
        at=payload.moment(data.get("ts_epoch")) or payload.moment(data.get("ts_event")),
        message_id=payload.message_id(payload.text(data, "message-id")),
        relais_id=payload.relais_id(payload.embedded(data.get("X-Mailin-custom"))),
        provider_message_id=payload.text(data, "message-id"),
    )
