"""Signatures according to Standard Webhooks (https://www.standardwebhooks.com).

webhook-id: msg_...                      the same at every attempt
webhook-timestamp: 1767225600            of this attempt, seconds
webhook-signature: v1,<base64> [v1,...]  HMAC-SHA256 of "id.timestamp.body", one per secret
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from typing import TYPE_CHECKING

from runtime.errors import RelaisError, SettingsError
from tasks.outbound import target

if TYPE_CHECKING:
    from collections.abc import Mapping

TOLERANCE_S = 300.0
_LABEL = "relais callback v1"  # its purpose; another version would give another secret
SECRET_MIN_BYTES = 16


class WrongSignature(RelaisError):  # noqa: N818 - reads as the finding it is
    """A request was not signed with a known secret, or too long ago."""


def secrets_of(setting: str) -> tuple[bytes, ...]:
    """The keys in RELAIS_CALLBACK_SECRET: `whsec_<base64>`, several separated by blanks."""
    return tuple(_key(secret) for secret in setting.split())


def endpoint_secrets(setting: str, *, tenant: str, url: str) -> tuple[str, ...]:
    """What the receiver at `url` verifies callbacks of `tenant` with: `whsec_<base64>`, new first.

    Derived from each secret in RELAIS_CALLBACK_SECRET, so that nothing has to be stored: whoever
    knows the secret of one endpoint can forge nothing to another, nor for another tenant. Raises
    BlockedAddress where `url` is none that callbacks could go to.
    """
    words = f"{_LABEL}\n{tenant}\n{endpoint_of(url)}".encode()
    keys = (hmac.digest(master, words, hashlib.sha256) for master in secrets_of(setting))
    return tuple(f"whsec_{base64.b64encode(key).decode()}" for key in keys)


def endpoint_of(url: str) -> str:
    """Scheme, host and port of `url`: n8n's resume URLs, a new one each time, are one endpoint."""
    to = target.parse(url)
    return f"{to.scheme}://{to.authority}"


def headers_of(
    *, message_id: str, body: bytes, secrets: tuple[bytes, ...], timestamp: int
) -> dict[str, str]:
    """The three headers of a request; every secret signs, so that receivers can switch over."""
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_mac(key, signed)}" for key in secrets),
    }


def verify(
    *,
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    now: float | None = None,
    tolerance_s: float = TOLERANCE_S,
) -> None:
    """Raise WrongSignature unless `body` came with a fresh signature of one of the secrets.

    `headers` with lower-case names; `body` the exact bytes; `secret` as in the setting.
    """
    try:
        message_id, sent_at = headers["webhook-id"], int(headers["webhook-timestamp"])
        signatures = headers["webhook-signature"].split()
    except (KeyError, ValueError):
        sentence = "The request has no complete signature."
        raise WrongSignature(sentence) from None
    if abs((time.time() if now is None else now) - sent_at) > tolerance_s:
        sentence = f"The request was signed more than {tolerance_s:g} s ago, or in the future."
        raise WrongSignature(sentence, remedy="Check the clocks; it may be a replay.")
    signed = b"%s.%d.%s" % (message_id.encode(), sent_at, body)
    known = [f"v1,{_mac(key, signed)}" for key in secrets_of(secret)]
    if not any(
        hmac.compare_digest(one.encode(), other.encode()) for one in known for other in signatures
    ):
        sentence = "The signature was made with another secret, or the body was changed."
        raise WrongSignature(sentence)


def _mac(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < SECRET_MIN_BYTES:
        sentence = "RELAIS_CALLBACK_SECRET is not of the form whsec_<base64 of 24 to 64 bytes>."
        remedy = "Make one: printf 'whsec_%s' \"$(head -c 32 /dev/urandom | base64)\"."
        raise SettingsError(sentence, remedy=remedy)
    return key
