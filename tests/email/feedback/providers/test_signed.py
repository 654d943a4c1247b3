"""SendGrid and Mailgun: signatures and formats."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from runtime.errors import SettingsError
from tasks.email.feedback import classify
from tasks.email.feedback.event import Batch
from tasks.email.feedback.providers import mailgun, sendgrid
from tasks.errors import FeedbackError
from tasks.outbound.signature import WrongSignature

MESSAGE = UUID("0198c0de-0000-7000-8000-000000000001")
NOW = datetime(2026, 11, 30, 10, 0, tzinfo=UTC)
PRIVATE = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())


def public(key: ec.EllipticCurvePrivateKey) -> str:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def signed(
    body: bytes, at: datetime = NOW, key: ec.EllipticCurvePrivateKey = PRIVATE
) -> dict[str, str]:
    timestamp = str(int(at.timestamp()))
    signature = key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return {
        sendgrid.SIGNATURE_HEADER: base64.b64encode(signature).decode(),
        sendgrid.TIMESTAMP_HEADER: timestamp,
    }


def of_sendgrid(*told: object) -> Batch:
    body = json.dumps(told).encode()
    return sendgrid.read(body=body, headers=signed(body), keys=[public(PRIVATE)], now=NOW)


BOUNCE = {
    "email": "ada@example.org", "timestamp": 1796032800, "event": "bounce", "type": "bounce",
    "smtp-id": "<0198c0de000070008000000000000000@example.com>", "sg_event_id": "zmzJhfJgAfUSOW80yEbPyw==",
    "sg_message_id": "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0", "status": "5.1.1", "tls": 1,
    "reason": "550 5.1.1 The email account that you tried to reach does not exist.",
    "bounce_classification": "Invalid Address", "relais_message": str(MESSAGE), "ip": "192.0.2.1",
}  # fmt: skip


def test_a_bounce_of_sendgrid() -> None:
    [event] = of_sendgrid(BOUNCE).events
    assert event.id == "zmzJhfJgAfUSOW80yEbPyw=="
    assert event.message_id == "<0198c0de000070008000000000000000@example.com>"
    assert event.relais_id == MESSAGE
    assert event.status == "5.1.1"
    assert event.at == datetime.fromtimestamp(1796032800, UTC)
    assert classify.of_event(event).category.value == "hard_bounce"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"type": "blocked", "status": "", "reason": "no", "bounce_classification": ""},
            ["policy"],
        ),
        ({"type": "blocked", "status": "5.7.1", "reason": "550 5.7.1 Spam"}, ["policy"]),
        ({"status": "5.0.0", "reason": "550 5.2.2 full"}, ["mailbox_full"]),
        ({"event": "dropped", "reason": "Bounced Address", "status": "5.0.0"}, ["hard_bounce"]),
        ({"event": "dropped", "reason": "Unsubscribed Address", "status": ""}, ["unsubscribed"]),
        ({"event": "dropped", "reason": "Spam Reporting Address", "status": ""}, ["complaint"]),
        ({"event": "dropped", "reason": "Invalid SMTPAPI header", "status": ""}, ["policy"]),
        ({"event": "deferred", "response": "450 4.2.0 Busy"}, ["deferred"]),
        ({"event": "delivered", "response": "250 OK"}, ["delivered"]),
        ({"event": "spamreport"}, ["complaint"]),
        ({"event": "group_unsubscribe"}, ["unsubscribed"]),
        ({"event": "open"}, ["ignored"]),
        ({"event": "processed"}, []),
        ({"event": "group_resubscribe"}, []),
    ],
)
def test_types_of_sendgrid(changes: dict[str, Any], expected: list[str]) -> None:
    delivery = of_sendgrid({**BOUNCE, **changes})
    assert [classify.of_event(event).category.value for event in delivery.events] == expected
    assert delivery.ignored == 1 - len(expected)


def test_signatures_of_sendgrid() -> None:
    body = json.dumps([BOUNCE]).encode()
    headers, keys = signed(body), [public(PRIVATE)]

    def read(**changes: Any) -> Batch:
        how: dict[str, Any] = {"body": body, "headers": headers, "keys": keys, "now": NOW}
        return sendgrid.read(**{**how, **changes})

    assert read(keys=[public(OTHER), public(PRIVATE)]).events  # while the key is changed
    wrong: list[dict[str, Any]] = [
        {"body": body + b" "},
        {"keys": [public(OTHER)]},
        {"keys": []},
        {"headers": signed(body, key=OTHER)},
        {"headers": {}},
        {"headers": {**headers, sendgrid.TIMESTAMP_HEADER: "1"}},
        {"headers": {**headers, sendgrid.SIGNATURE_HEADER: "???"}},
        {"headers": {**headers, sendgrid.SIGNATURE_HEADER: "AAAA"}},
        {"headers": signed(body, at=NOW - timedelta(hours=27))},
        {"headers": signed(body, at=NOW + timedelta(minutes=6))},
    ]
    for changes in wrong:
        with pytest.raises(WrongSignature):
            read(**changes)
    with pytest.raises(SettingsError, match="verification key"):
        read(keys=["nonsense"])


def test_a_request_that_sendgrid_signed_itself() -> None:
    """The vector by which SendGrid's own libraries test their verification."""
    told = {
        "email": "hello@world.com",
        "event": "dropped",
        "reason": "Bounced Address",
        "sg_event_id": "ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",
        "sg_message_id": "LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",
        "smtp-id": "<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>",
        "timestamp": 1600112492,
    }
    batch = sendgrid.read(
        body=json.dumps([told], separators=(",", ":")).encode() + b"\r\n",
        headers={
            sendgrid.SIGNATURE_HEADER: "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=",
            sendgrid.TIMESTAMP_HEADER: "1600112502",
        },
        keys=[
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g=="
        ],
        now=datetime.fromtimestamp(1600112502, UTC),
    )
    [event] = batch.events
    assert (event.recipient, event.cause) == ("hello@world.com", "address")


def test_a_second_signature_of_the_same_request_is_still_a_replay() -> None:
    body = json.dumps([BOUNCE]).encode()
    one, two = signed(body), signed(body)
    assert one != two
    keys = [public(PRIVATE)]
    ids = {sendgrid.read(body=body, headers=h, keys=keys, now=NOW).replay_id for h in (one, two)}
    assert len(ids) == 1


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"[[]]", b"null", b"[" * 50_000])
def test_a_signed_body_that_is_no_array_of_events(body: bytes) -> None:
    with pytest.raises(FeedbackError):
        sendgrid.read(body=body, headers=signed(body), keys=[public(PRIVATE)], now=NOW)


def test_events_without_a_name_of_their_own_are_told_apart() -> None:
    plain = {key: value for key, value in BOUNCE.items() if key != "sg_event_id"}
    one, two, again = of_sendgrid(plain, {**plain, "email": "bob@example.org"}, plain).events
    assert one.id == again.id != two.id


KEY = "key-3ax6xnjp29jd6fds4gc373sgvjxteol0"
FAILED = {
    "event": "failed", "id": "G9Bn5sl1TC6nu79C8C0bwg", "timestamp": 1796032799.5, "log-level": "error",
    "severity": "permanent", "reason": "bounce", "recipient": "ada@example.org",
    "message": {"headers": {"message-id": "0198c0de000070008000000000000000@example.com"}},
    "delivery-status": {"attempt-no": 1, "code": 550, "enhanced-code": "5.1.1",
                        "message": "5.1.1 The email account that you tried to reach does not exist.",
                        "mx-host": "mx.example.org"},
    "user-variables": {"relais_message": str(MESSAGE)}, "tags": [],
}  # fmt: skip


def body_of(told: object, *, key: str = KEY, at: datetime = NOW, token: str = "a" * 50) -> bytes:
    timestamp = str(int(at.timestamp()))
    made = hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()
    signature = {"timestamp": timestamp, "token": token, "signature": made}
    return json.dumps({"signature": signature, "event-data": told}).encode()


def of_mailgun(told: object, **how: Any) -> Batch:
    return mailgun.read(body=body_of(told, **how), headers={}, keys=[KEY], now=NOW)


def test_a_bounce_of_mailgun() -> None:
    delivery = of_mailgun(FAILED)
    assert delivery.replay_id == f"mailgun:{'a' * 50}"
    [event] = delivery.events
    assert event.message_id == "<0198c0de000070008000000000000000@example.com>"
    assert event.relais_id == MESSAGE
    assert event.recipient == "ada@example.org"
    assert event.status == "5.1.1"
    assert event.at == datetime.fromtimestamp(1796032799.5, UTC)
    assert classify.of_event(event).category.value == "hard_bounce"
    [again] = of_mailgun(FAILED, token="b" * 50).events
    [another_day] = of_mailgun({**FAILED, "timestamp": 1796132799.5}).events
    assert again.id == event.id != another_day.id


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"severity": "temporary"}, ["deferred"]),
        ({"delivery-status": {"code": 552, "message": "5.2.2 Mailbox full"}}, ["mailbox_full"]),
        ({"delivery-status": {"code": 550, "message": "5.7.1 Blocked"}}, ["policy"]),
        (
            {"delivery-status": {"code": 605, "message": ""}, "reason": "suppress-bounce"},
            ["hard_bounce"],
        ),
        ({"delivery-status": {}, "reason": "suppress-complaint"}, ["complaint"]),
        ({"delivery-status": {}, "reason": "suppress-unsubscribe"}, ["unsubscribed"]),
        ({"delivery-status": None}, ["hard_bounce"]),
        ({"event": "delivered"}, ["delivered"]),
        ({"event": "complained"}, ["complaint"]),
        ({"event": "unsubscribed"}, ["unsubscribed"]),
        ({"event": "clicked"}, ["ignored"]),
        ({"event": "accepted"}, []),
    ],
)
def test_types_of_mailgun(changes: dict[str, Any], expected: list[str]) -> None:
    delivery = of_mailgun({**FAILED, **changes})
    assert [classify.of_event(event).category.value for event in delivery.events] == expected


def test_signatures_of_mailgun() -> None:
    elsewhen: list[dict[str, Any]] = [
        {"key": "other"},
        {"at": NOW - timedelta(hours=10)},
        {"at": NOW + timedelta(hours=1)},
    ]
    for how in elsewhen:
        with pytest.raises(WrongSignature):
            of_mailgun(FAILED, **how)
    unsigned: list[dict[str, Any]] = [
        {},
        {"signature": None},
        {"signature": {"timestamp": "1", "token": "x", "signature": "ü"}},
    ]
    for one in unsigned:
        with pytest.raises(WrongSignature):
            mailgun.read(body=json.dumps(one).encode(), headers={}, keys=[KEY], now=NOW)
    body = body_of(FAILED)
    for keys in ([], [""]):
        with pytest.raises(WrongSignature):
            mailgun.read(body=body, headers={}, keys=keys, now=NOW)
    assert mailgun.read(body=body, headers={}, keys=["new", KEY], now=NOW).events
    with pytest.raises(FeedbackError):
        of_mailgun({})
