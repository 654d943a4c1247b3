"""Postmark and Brevo sign nothing: the secret, and the formats of their events."""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from tasks.email.feedback import classify
from tasks.email.feedback.event import Batch, Event
from tasks.email.feedback.providers import brevo, postmark, shared_secret
from tasks.errors import FeedbackError
from tasks.outbound.signature import WrongSignature

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = UUID("0198c0de-0000-7000-8000-000000000001")
SECRETS = shared_secret.secrets_of(SECRET, provider="postmark", tenant="acme")
HEADERS = {"authorization": f"Bearer {SECRETS[0]}"}
READERS = [postmark.read, brevo.read]


def basic(password: str, name: str = "relais") -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    "headers",
    [
        HEADERS,
        {"authorization": f"bearer  {SECRETS[0]}"},
        {"x-relais-secret": SECRETS[0]},
        basic(SECRETS[0]),
        basic(SECRETS[0], name="anybody"),
    ],
)
def test_where_the_secret_may_stand(headers: dict[str, str]) -> None:
    shared_secret.verify(headers, secrets=SECRETS, provider="Postmark")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer x"},
        {"authorization": "Bearer ü"},
        {"authorization": f"Digest {SECRETS[0]}"},
        {"authorization": "Basic ???"},
        {"authorization": "Basic " + base64.b64encode(SECRETS[0].encode()).decode()},
        basic(""),
        basic(SECRETS[0][:-1]),
        {"x-relais-secret": "x", **HEADERS},
    ],
)
@pytest.mark.parametrize("read", READERS)
def test_who_does_not_know_it_is_refused_before_the_body_is_read(
    read: Any, headers: dict[str, str]
) -> None:
    with pytest.raises(WrongSignature):
        read(body=b"not JSON", headers=headers, secrets=SECRETS)


@pytest.mark.parametrize("secrets", [(), ("",)])
def test_no_secret_of_ours_is_no_open_door(secrets: tuple[str, ...]) -> None:
    for headers in (HEADERS, basic(""), {"authorization": "Bearer "}):
        with pytest.raises(WrongSignature):
            shared_secret.verify(headers, secrets=secrets, provider="Postmark")


def test_each_provider_and_tenant_has_its_own_and_both_hold_while_rotating() -> None:
    other = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    names = [("postmark", "acme"), ("brevo", "acme"), ("postmark", "other")]
    made = [shared_secret.secrets_of(SECRET, provider=p, tenant=t) for p, t in names]
    assert len(set(made)) == 3
    rotating = shared_secret.secrets_of(f"{other} {SECRET}", provider="postmark", tenant="acme")
    assert rotating[1] == SECRETS[0]
    shared_secret.verify(HEADERS, secrets=rotating, provider="Postmark")
    with pytest.raises(WrongSignature):
        shared_secret.verify(HEADERS, secrets=rotating[:1], provider="Postmark")


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"1", b"null", b"{}", b"[" * 100_000, b"\xff"])
@pytest.mark.parametrize("read", READERS)
def test_a_body_that_is_no_event(read: Any, body: bytes) -> None:
    with pytest.raises(FeedbackError):
        read(body=body, headers=HEADERS, secrets=SECRETS)


def test_a_body_that_is_too_long() -> None:
    with pytest.raises(FeedbackError, match="longer than"):
        postmark.read(body=b" " * 5_000_000, headers=HEADERS, secrets=SECRETS)


def of_postmark(data: dict[str, Any]) -> Batch:
    return postmark.read(body=json.dumps(data).encode(), headers=HEADERS, secrets=SECRETS)


def of_brevo(data: object) -> Batch:
    return brevo.read(body=json.dumps(data).encode(), headers=HEADERS, secrets=SECRETS)


def category(event: Event) -> str:
    return classify.of_event(event).category.value


POSTMARK_BOUNCE = {
    "RecordType": "Bounce", "ID": 42, "Type": "HardBounce", "TypeCode": 1, "Name": "Hard bounce",
    "MessageID": "883953f4-6105-42a2-a16a-77a8eac79483", "ServerID": 23, "MessageStream": "outbound",
    "Description": "The server was unable to deliver your message.",
    "Details": "smtp;550 5.1.1 <ada@example.org>: User unknown", "Email": "ada@example.org",
    "From": "shop@example.com", "BouncedAt": "2026-11-30T10:00:00.1234567Z", "Inactive": True,
    "Metadata": {"relais_message": str(MESSAGE)},
}  # fmt: skip


def test_a_bounce_of_postmark() -> None:
    delivery = of_postmark(POSTMARK_BOUNCE)
    [event] = delivery.events
    assert event.id == "Bounce:42"
    assert (event.kind.value, event.status) == ("bounced", "5.1.1")
    assert event.recipient == "ada@example.org"
    assert event.relais_id == MESSAGE
    assert event.provider_message_id == "883953f4-6105-42a2-a16a-77a8eac79483"
    assert event.at == datetime(2026, 11, 30, 10, 0, 0, 123456, tzinfo=UTC)
    assert category(event) == "hard_bounce"
    assert delivery.replay_id == of_postmark(POSTMARK_BOUNCE).replay_id
    assert delivery.replay_id != of_postmark({**POSTMARK_BOUNCE, "ID": 43}).replay_id


@pytest.mark.parametrize(
    ("kind", "details", "expected"),
    [
        ("HardBounce", "smtp;550 5.7.1 Blocked", "policy"),
        ("HardBounce", "", "hard_bounce"),
        ("SoftBounce", "smtp;452 4.2.2 Mailbox full", "mailbox_full"),
        ("DnsError", "", "soft_bounce"),
        ("Transient", "", "deferred"),
        ("BadEmailAddress", "", "hard_bounce"),
        ("Blocked", "", "policy"),
        ("DMARCPolicy", "", "policy"),
        ("SpamComplaint", "", "complaint"),
        ("Unsubscribe", "", "unsubscribed"),
        ("Unknown", "", "unknown"),
        ("AutoResponder", "", None),
        ("SomethingNew", "", None),
    ],
)
def test_types_of_postmark(kind: str, details: str, expected: str | None) -> None:
    told = {**POSTMARK_BOUNCE, "Type": kind, "Details": details, "Description": ""}
    delivery = of_postmark(told)
    assert [category(event) for event in delivery.events] == ([expected] if expected else [])
    assert delivery.ignored == (0 if expected else 1)


CHANGE = {
    "RecordType": "SubscriptionChange", "MessageID": "883953f4", "Recipient": "ada@example.org",
    "Origin": "Recipient", "SuppressSending": True, "SuppressionReason": "ManualSuppression",
    "ChangedAt": "2026-11-30T10:00:00Z", "Metadata": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["unsubscribed"]),
        ({"SuppressionReason": "HardBounce"}, ["hard_bounce"]),
        ({"SuppressionReason": "SpamComplaint"}, ["complaint"]),
        ({"SuppressSending": False, "SuppressionReason": None}, []),
        ({"RecordType": "Delivery", "DeliveredAt": "2026-11-30T10:00:00Z"}, ["delivered"]),
        ({"RecordType": "Open"}, ["ignored"]),
        ({"RecordType": "SpamComplaint", "ID": 43}, ["complaint"]),
        ({"RecordType": "Inbound"}, []),
    ],
)
def test_records_of_postmark(changes: dict[str, Any], expected: list[str]) -> None:
    assert [category(event) for event in of_postmark({**CHANGE, **changes}).events] == expected


BREVO_BOUNCE = {
    "event": "hard_bounce", "email": "ada@example.org", "id": 999, "date": "2026-11-30 11:00:00",
    "ts": 1796032800, "ts_event": 1796032800, "ts_epoch": 1796032800123,
    "message-id": "<202611301000.1@smtp-relay.mailin.fr>", "subject": "Your order",
    "X-Mailin-custom": json.dumps({"relais_message": str(MESSAGE)}), "tag": "", "sending_ip": "192.0.2.1",
    "reason": " RecipientError: 550 5.1.1 <ada@example.org>: User unknown",
}  # fmt: skip


def test_a_bounce_of_brevo() -> None:
    [event] = of_brevo(BREVO_BOUNCE).events
    assert event.message_id == "<202611301000.1@smtp-relay.mailin.fr>"
    assert event.relais_id == MESSAGE
    assert event.status == "5.1.1"
    assert event.at == datetime.fromtimestamp(1796032800.123, UTC)
    assert category(event) == "hard_bounce"
    # The account's number is no name of an event.
    [again] = of_brevo(BREVO_BOUNCE).events
    [other] = of_brevo({**BREVO_BOUNCE, "email": "bob@example.org"}).events
    assert again.id == event.id != other.id


def test_brevo_batches() -> None:
    delivery = of_brevo(
        [BREVO_BOUNCE, {"event": "request"}, {**BREVO_BOUNCE, "event": "delivered"}]
    )
    assert [event.kind.value for event in delivery.events] == ["bounced", "delivered"]
    assert delivery.ignored == 1


@pytest.mark.parametrize(
    ("name", "reason", "expected"),
    [
        ("soft_bounce", "undefined Unable to find MX of domain example.org", "soft_bounce"),
        ("invalid_email", None, "hard_bounce"),
        ("blocked", "due to user", "policy"),
        ("error", None, "policy"),
        ("deferred", "450 4.2.0 Busy", "deferred"),
        ("spam", None, "complaint"),
        ("complaint", None, "complaint"),
        ("unsubscribed", None, "unsubscribed"),
        ("unique_proxy_open", None, "ignored"),
        ("click", None, "ignored"),
    ],
)
def test_types_of_brevo(name: str, reason: str | None, expected: str) -> None:
    [event] = of_brevo({**BREVO_BOUNCE, "event": name, "reason": reason}).events
    assert category(event) == expected


@pytest.mark.parametrize("value", [None, 1, [], {}, "x", True, 1e300, "\u0000", "\ud800"])
@pytest.mark.parametrize("key", [*BREVO_BOUNCE])
def test_any_field_may_be_of_any_type(key: str, value: object) -> None:
    try:
        delivery = of_brevo({**BREVO_BOUNCE, key: value})
    except FeedbackError:
        return
    for event in delivery.events:
        assert "\x00" not in repr(event)
