"""Amazon SES, by way of SNS: notifications of an identity, and events of a configuration set.

https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html and
.../event-publishing-retrieving-sns-contents.html; the two differ in the name of the type only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from tasks.email.feedback import metadata, report
from tasks.email.feedback.event import Batch, Cause, Event, Kind, Permanence
from tasks.email.feedback.providers import payload, sns

PROVIDER = "ses"

_PERMANENCES = {
    "Permanent": Permanence.PERMANENT,
    "Transient": Permanence.TRANSIENT,
    "Undetermined": Permanence.UNDETERMINED,
}
_CAUSES = {
    "NoEmail": Cause.ADDRESS,
    "Suppressed": Cause.ADDRESS,
    "OnAccountSuppressionList": Cause.ADDRESS,
    "MailboxFull": Cause.MAILBOX_FULL,
    "MessageTooLarge": Cause.MESSAGE,
    "ContentRejected": Cause.MESSAGE,
    "AttachmentRejected": Cause.MESSAGE,
}


async def read(
    *,
    body: bytes,
    headers: Mapping[str, str],  # noqa: ARG001 - the body repeats what they say, and is signed
    topics: Collection[str],
    fetch: sns.Fetch,
    now: datetime | None = None,
    tolerance_s: float = sns.TOLERANCE_S,
) -> Batch:
    """The events in a request of SNS; `topics` and `fetch` as for `sns.open_envelope`."""
    envelope = await sns.open_envelope(
        body, topics=topics, fetch=fetch, now=now, tolerance_s=tolerance_s
    )
    replay_id = f"ses:{envelope.id}"
    data = payload.embedded(envelope.message)
    if envelope.type != "Notification" or not isinstance(data, dict):
        # A question whether it may send, or words like "Successfully validated SNS topic ...".
        return Batch((), replay_id, confirm_url=envelope.confirm_url, ignored=1)
    name = payload.text(data, "eventType", "notificationType")
    if name is None:
        payload.refuse("Amazon SES", "eventType", "is missing")
    events = [
        replace(event, id=f"{envelope.id}/{number}", at=event.at or envelope.at)
        for number, event in enumerate(_events(name, data))
    ]
    return Batch(tuple(events), replay_id, ignored=0 if events else 1)


def _events(name: str, data: dict[str, Any]) -> list[Event]:
    told = payload.mapping(data, name[:1].lower() + name[1:])
    at = payload.moment(told.get("timestamp"))
    match name:
        case "Bounce":
            return _bounces(data, told, at)
        case "DeliveryDelay":
            reason = payload.text(told, "delayType")
            return [
                _event(data, Kind.DEFERRED, one, at, reason)
                for one in payload.entries(told, "delayedRecipients")
            ]
        case "Complaint":
            if payload.text(told, "complaintFeedbackType") == "not-spam":
                return []
            reason = payload.text(told, "complaintFeedbackType", "complaintSubType")
            return [
                _event(data, Kind.COMPLAINED, one, at, reason)
                for one in payload.entries(told, "complainedRecipients")
            ]
        case "Delivery":
            reason = payload.text(told, "smtpResponse")
            return [
                _event(data, Kind.DELIVERED, one, at, reason)
                for one in payload.entries(told, "recipients")
            ]
        case "Reject" | "Rendering Failure":
            told = told or payload.mapping(data, "failure")
            reason = payload.text(told, "reason", "errorMessage")
            return [
                replace(_event(data, Kind.BOUNCED, one, at, reason), cause=Cause.MESSAGE)
                for one in _destinations(data)
            ]
        case "Subscription":
            if payload.mapping(told, "newTopicPreferences").get("unsubscribeAll") is not True:
                return []
            return [_event(data, Kind.UNSUBSCRIBED, one, at, None) for one in _destinations(data)]
        case "Open" | "Click":
            return [_event(data, Kind.OPENED, one, at, None) for one in _destinations(data)]
    return []


def _bounces(data: dict[str, Any], told: dict[str, Any], at: datetime | None) -> list[Event]:
    subtype = payload.text(told, "bounceSubType") or ""
    permanence = _PERMANENCES.get(payload.text(told, "bounceType") or "")
    kind = Kind.UNSUBSCRIBED if subtype == "UnsubscribedRecipient" else Kind.BOUNCED
    return [
        replace(
            _event(data, kind, one, at, subtype or None),
            permanence=permanence,
            cause=_CAUSES.get(subtype),
        )
        for one in payload.entries(told, "bouncedRecipients")
    ]


def _event(
    data: dict[str, Any], kind: Kind, recipient: object, at: datetime | None, reason: str | None
) -> Event:
    """`recipient`: an address, or an object that has one."""
    mail = payload.mapping(data, "mail")
    said = payload.text(recipient, "diagnosticCode")
    fields = recipient if isinstance(recipient, dict) else {"emailAddress": recipient}
    return Event(
        provider=PROVIDER,
        id="",
        kind=kind,
        recipient=payload.text(fields, "emailAddress"),
        status=_status(payload.text(recipient, "status"), said),
        reason=said or reason,
        at=at,
        message_id=_message_id(mail),
        relais_id=_relais_id(mail),
        provider_message_id=payload.text(mail, "messageId"),
    )


def _destinations(data: dict[str, Any]) -> list[Any]:
    return payload.entries(payload.mapping(data, "mail"), "destination")


def _message_id(mail: dict[str, Any]) -> str | None:
    """Ours, as it was before SES replaced it; only where SES was told to include headers."""
    return payload.message_id(payload.text(payload.mapping(mail, "commonHeaders"), "messageId"))


def _relais_id(mail: dict[str, Any]) -> UUID | None:
    values = payload.entries(payload.mapping(mail, "tags"), metadata.KEY)
    return payload.relais_id({metadata.KEY: values[0]}) if values else None


def _status(stated: str | None, said: str | None) -> str | None:
    found, quoted = report.status_in(stated or ""), report.status_in(said or "")
    return quoted if quoted and (found is None or found.endswith(".0.0")) else found
