"""Amazon SES through SNS: the signature, the topic, the events."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from tasks.email.feedback import classify
from tasks.email.feedback.event import Batch
from tasks.email.feedback.providers import ses
from tasks.errors import FeedbackError
from tasks.outbound.signature import WrongSignature

MESSAGE = UUID("0198c0de-0000-7000-8000-000000000001")
NOW = datetime(2026, 11, 30, 10, 0, tzinfo=UTC)
TOPIC = "arn:aws:sns:eu-west-1:123456789012:bounces"
CERTIFICATE = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-9c6465fa.pem"
SIGNED = (
    "Message",
    "MessageId",
    "Subject",
    "SubscribeURL",
    "Timestamp",
    "Token",
    "TopicArn",
    "Type",
)


@cache
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def pem(days: int = 30) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    end = NOW + timedelta(days=days)
    made = x509.CertificateBuilder(name, name, key().public_key(), x509.random_serial_number())
    made = made.not_valid_before(end - timedelta(days=60)).not_valid_after(end)
    return made.sign(key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def envelope(message: object, *, version: str = "2", **fields: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Message": message if isinstance(message, str) else json.dumps(message),
        "Timestamp": NOW.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "SignatureVersion": version,
        "SigningCertURL": CERTIFICATE,
        **fields,
    }
    text = "".join(f"{name}\n{data[name]}\n" for name in SIGNED if name in data)
    algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()  # noqa: S303 - version 1
    signature = key().sign(text.encode(), padding.PKCS1v15(), algorithm)
    return {**data, "Signature": base64.b64encode(signature).decode()}


async def read(data: object, *, certificate: bytes | None = None) -> Batch:
    asked: list[str] = []

    async def fetch(url: str) -> bytes:
        asked.append(url)
        return pem() if certificate is None else certificate

    body = json.dumps(data).encode()
    delivery = await ses.read(body=body, headers={}, topics={TOPIC}, fetch=fetch, now=NOW)
    assert asked == [CERTIFICATE]
    return delivery


MAIL = {
    "timestamp": "2026-11-30T09:59:58.000Z", "source": "shop@example.com",
    "messageId": "00000138111222aa-33322211-cccc-cccc-cccc-ddddaaaa0680-000000",
    "destination": ["ada@example.org", "bob@example.org"],
    "commonHeaders": {"messageId": "<0198c0de000070008000000000000000@example.com>"},
    "tags": {"ses:configuration-set": ["relais"], "relais_message": [str(MESSAGE)]},
}  # fmt: skip
BOUNCE = {
    "notificationType": "Bounce",
    "bounce": {
        "bounceType": "Permanent", "bounceSubType": "General", "reportingMTA": "dns; email.example.com",
        "bouncedRecipients": [
            {"emailAddress": "ada@example.org", "status": "5.1.1", "action": "failed",
             "diagnosticCode": "smtp; 550 5.1.1 <ada@example.org>... User unknown"},
            {"emailAddress": "bob@example.org"},
        ],
        "timestamp": "2026-11-30T10:00:00.000Z", "feedbackId": "00000138111222aa", "remoteMtaIp": "127.0.2.0",
    },
    "mail": MAIL,
}  # fmt: skip


@pytest.mark.parametrize("version", ["1", "2"])
async def test_a_bounce(version: str) -> None:
    delivery = await read(envelope(BOUNCE, version=version, Subject="Amazon SES"))
    assert delivery.replay_id == "ses:22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324"
    ada, bob = delivery.events
    assert (ada.recipient, bob.recipient) == ("ada@example.org", "bob@example.org")
    assert ada.id != bob.id
    assert ada.status == "5.1.1"
    assert ada.message_id == "<0198c0de000070008000000000000000@example.com>"
    assert ada.relais_id == MESSAGE
    assert ada.provider_message_id == MAIL["messageId"]
    assert ada.at == NOW
    assert {classify.of_event(event).category.value for event in (ada, bob)} == {"hard_bounce"}


def event(name: str, **told: object) -> dict[str, Any]:
    return {"eventType": name, name[:1].lower() + name[1:]: told, "mail": MAIL}


ADA = {"emailAddress": "ada@example.org"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (event("Bounce", bounceType="Transient", bounceSubType="MailboxFull", bouncedRecipients=[ADA]), ["mailbox_full"]),
        (event("Bounce", bounceType="Transient", bounceSubType="General", bouncedRecipients=[ADA]), ["soft_bounce"]),
        (event("Bounce", bounceType="Permanent", bounceSubType="Suppressed", bouncedRecipients=[ADA]), ["hard_bounce"]),
        (event("Bounce", bounceType="Transient", bounceSubType="ContentRejected", bouncedRecipients=[ADA]), ["policy"]),
        (event("Bounce", bounceType="Undetermined", bounceSubType="Undetermined", bouncedRecipients=[ADA]), ["unknown"]),
        (event("Complaint", complaintFeedbackType="abuse", complainedRecipients=[ADA]), ["complaint"]),
        (event("Complaint", complaintFeedbackType="not-spam", complainedRecipients=[ADA]), []),
        (event("Delivery", recipients=["ada@example.org"], smtpResponse="250 ok"), ["delivered"]),
        (event("DeliveryDelay", delayType="MailboxFull", delayedRecipients=[ADA]), ["deferred"]),
        (event("Reject", reason="Bad content"), ["policy", "policy"]),
        (event("Subscription", newTopicPreferences={"unsubscribeAll": True}), ["unsubscribed"] * 2),
        (event("Subscription", newTopicPreferences={"unsubscribeAll": False}), []),
        (event("Open"), ["ignored", "ignored"]),
        (event("Send"), []),
        ({"eventType": "Rendering Failure", "failure": {"errorMessage": "x"}, "mail": MAIL}, ["policy"] * 2),
    ],
)  # fmt: skip
async def test_types(message: dict[str, Any], expected: list[str]) -> None:
    delivery = await read(envelope(message))
    assert [classify.of_event(one).category.value for one in delivery.events] == expected


async def test_a_question_whether_sns_may_send() -> None:
    url = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=x&Token=y"
    asked = envelope(
        "You have chosen ...", Type="SubscriptionConfirmation", Token="y", SubscribeURL=url
    )
    delivery = await read(asked)
    assert (delivery.confirm_url, delivery.events) == (url, ())
    elsewhere = {**asked, "SubscribeURL": "https://evil.example/?Action=ConfirmSubscription&x"}
    with pytest.raises(WrongSignature):
        await read(elsewhere)


async def test_words_that_are_no_event() -> None:
    delivery = await read(
        envelope("Successfully validated SNS topic for Amazon SES event publishing.")
    )
    assert (delivery.events, delivery.ignored) == ((), 1)
    with pytest.raises(FeedbackError):
        await read(envelope({}))


@pytest.mark.parametrize(
    "changed",
    [{"Message": "{}"}, {"MessageId": "x"}, {"Subject": "x"}, {"Signature": "AAAA"}, {"Signature": "?"},
     {"SignatureVersion": "1"}, {"SignatureVersion": "3"}, {"Signature": None}],
)  # fmt: skip
async def test_what_was_changed_on_its_way(changed: dict[str, Any]) -> None:
    with pytest.raises(WrongSignature):
        await read({**envelope(BOUNCE), **changed})


@pytest.mark.parametrize(
    "data",
    [
        envelope(BOUNCE, TopicArn="arn:aws:sns:eu-west-1:666666666666:mine"),
        envelope(BOUNCE, Timestamp="2026-11-30T07:59:59.000Z"),
        envelope(BOUNCE, Timestamp="2026-11-30T10:06:00.000Z"),
        envelope(BOUNCE, Timestamp="soon"),
        envelope(BOUNCE, Type="Other"),
        BOUNCE,
        [],
        *[
            envelope(BOUNCE, SigningCertURL=url)
            for url in (
                "http://sns.eu-west-1.amazonaws.com/a.pem",
                "https://sns.eu-west-1.amazonaws.com.evil.example/a.pem",
                "https://evil.example/sns.eu-west-1.amazonaws.com/a.pem",
                "https://sns.eu-west-1.amazonaws.com@evil.example/a.pem",
                "https://evil.example#https://sns.eu-west-1.amazonaws.com/a.pem",
                "https://sns.eu-west-1.amazonaws.com:8443/a.pem",
                "https://sns.eu-west-1.amazonaws.com/a.pem?x=y",
                "https://sns.eu-west-1.amazonaws.com/../a.pem",
                "https://sns.evil.example.amazonaws.com/a.pem",
                "https://s3.eu-west-1.amazonaws.com/a.pem",
                "https://sns.eu-west-1.amazonaws.com/a.pem\n",
                "",
            )
        ],
    ],
)
async def test_nothing_is_fetched_for_what_cannot_be_ours(data: object) -> None:
    async def fetch(url: str) -> bytes:
        pytest.fail(f"{url} was asked for")

    body = json.dumps(data).encode()
    with pytest.raises(WrongSignature):
        await ses.read(body=body, headers={}, topics={TOPIC}, fetch=fetch, now=NOW)


@pytest.mark.parametrize(
    "certificate", [b"", b"no PEM", pem(days=-1)], ids=["empty", "text", "expired"]
)
async def test_a_certificate_that_is_none(certificate: bytes) -> None:
    with pytest.raises(WrongSignature, match="certificate"):
        await read(envelope(BOUNCE), certificate=certificate)
