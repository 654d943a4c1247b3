"""The envelope of Amazon SNS, and its signature.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html. That a signature is
Amazon's says little: everybody can have a topic there. The topic must be one that we know.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509 import load_pem_x509_certificate

from tasks.email.feedback.providers import payload
from tasks.outbound.signature import WrongSignature

TOLERANCE_S = 2 * 3600.0  # SNS tries for an hour
FIELD_MAX = 300_000  # a message of SNS has at most 256 kB

# The whole URL, so that no user, port or query can make another host of it.
_CERTIFICATE_URL = re.compile(
    r"https://sns\.[a-z0-9-]{3,40}\.amazonaws\.com/[A-Za-z0-9._-]{1,200}\.pem"
)
_CONFIRM_URL = re.compile(
    r"https://sns\.[a-z0-9-]{3,40}\.amazonaws\.com/\?Action=ConfirmSubscription&[!-~]{1,2000}"
)
_NOTIFICATION = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_CONFIRMATION = (
    "Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type",
)  # fmt: skip
_SIGNED = {
    "Notification": _NOTIFICATION,
    "SubscriptionConfirmation": _CONFIRMATION,
    "UnsubscribeConfirmation": _CONFIRMATION,
}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A proven message of SNS."""

    type: str
    id: str
    message: str
    at: datetime
    confirm_url: str | None


Fetch = Callable[[str], Awaitable[bytes]]


async def open_envelope(
    body: bytes,
    *,
    topics: Collection[str],
    fetch: Fetch,
    now: datetime | None = None,
    tolerance_s: float = TOLERANCE_S,
) -> Envelope:
    """What SNS sent; `fetch` gives the PEM behind a URL, which is always one of Amazon's.

    `topics`: the ARNs whose messages are taken.
    """
    data = payload.load(body, provider="Amazon SNS")
    names = _SIGNED.get(_field(data, "Type"))
    if names is None or not isinstance(data, dict):
        sentence = "The request is no signed message of Amazon SNS."
        remedy = "Switch off raw message delivery of the subscription."
        raise WrongSignature(sentence, remedy=remedy)
    if _field(data, "TopicArn") not in topics:
        sentence = "The message comes from a topic that is not one of ours."
        remedy = "Name its ARN in the settings, if it is."
        raise WrongSignature(sentence, remedy=remedy)
    url = _field(data, "SigningCertURL")
    if not _CERTIFICATE_URL.fullmatch(url):
        sentence = "The certificate of the message does not lie at sns.<region>.amazonaws.com."
        raise WrongSignature(sentence)
    now = now or datetime.now(UTC)
    sent_at = payload.moment(_field(data, "Timestamp"))
    payload.require_fresh(sent_at, now=now, tolerance_s=tolerance_s)
    _verify(data, names, await fetch(url), now)
    confirm = _field(data, "SubscribeURL") if names is _CONFIRMATION else ""
    return Envelope(
        type=_field(data, "Type"),
        id=_field(data, "MessageId")[:200],
        message=_field(data, "Message"),
        at=sent_at or now,
        confirm_url=confirm
        if _field(data, "Type") == "SubscriptionConfirmation" and _CONFIRM_URL.fullmatch(confirm)
        else None,
    )


def string_to_sign(data: dict[str, Any], names: tuple[str, ...]) -> bytes:
    """Name and value of each field on lines of their own; `Subject` only where there is one."""
    lines = [f"{name}\n{_field(data, name)}\n" for name in names if _field(data, name)]
    return "".join(lines).encode("utf-8", "surrogatepass")


def _verify(data: dict[str, Any], names: tuple[str, ...], pem: bytes, now: datetime) -> None:
    algorithms = {"1": hashes.SHA1(), "2": hashes.SHA256()}  # noqa: S303 - what version 1 says
    algorithm = algorithms.get(_field(data, "SignatureVersion"))
    if algorithm is None:
        sentence = "The message has a SignatureVersion that is neither 1 nor 2."
        raise WrongSignature(sentence)
    key = _key(pem, now)
    if key is None:
        sentence = "The certificate of the message cannot be read, or is out of date."
        raise WrongSignature(sentence)
    try:
        signature = base64.b64decode(_field(data, "Signature"), validate=True)
        key.verify(signature, string_to_sign(data, names), padding.PKCS1v15(), algorithm)
    except (InvalidSignature, ValueError):
        sentence = "The signature does not fit the message: it was changed on its way."
        raise WrongSignature(sentence) from None


def _key(pem: bytes, now: datetime) -> rsa.RSAPublicKey | None:
    try:
        certificate = load_pem_x509_certificate(pem)
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    is_valid = certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
    return key if is_valid and isinstance(key, rsa.RSAPublicKey) else None


def _field(data: object, name: str) -> str:
    found = data.get(name) if isinstance(data, dict) else None
    return found if isinstance(found, str) and len(found) <= FIELD_MAX else ""
