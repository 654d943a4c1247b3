"""A return path for each message: `bounce+<token>@domain`, so that a bounce names its message.

The token is the message's id and an HMAC over it, in base32: a host that puts a local part into
lower or upper case does no harm. A Message-ID proves nothing, since every recipient of the mail
knows it; who knows this token was given this one message.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from uuid import UUID

from tasks.email.feedback import keys as feedback_keys

PREFIX = "bounce+"
MAC_BYTES = 14  # 112 bits; with the id's 16 bytes exactly 48 letters, and no spare bits to vary
TOKEN_LENGTH = 48
_LABEL = "relais return path v1"
_TOKEN = re.compile(rf"[A-Za-z2-7]{{{TOKEN_LENGTH}}}")
_IN_ADDRESS = re.compile(rf"(?:^|[\s<\"=:;,]){re.escape(PREFIX)}([a-z2-7]{{48}})@", re.IGNORECASE)


def keys_of(setting: str) -> tuple[bytes, ...]:
    """The keys that tokens are signed with, from RELAIS_CALLBACK_SECRET; the new one first."""
    return feedback_keys.derive(setting, label=_LABEL)


def make(keys: tuple[bytes, ...], *, message_id: UUID, domain: str) -> str:
    """The return path of a message (`messages.id`) at `domain`; a local part of 55 octets."""
    return f"{PREFIX}{token(keys, message_id)}@{domain}"


def token(keys: tuple[bytes, ...], message_id: UUID) -> str:
    """The token alone; SettingsError without a key."""
    signed = message_id.bytes + _mac(feedback_keys.newest(keys), message_id)
    return base64.b32encode(signed).decode().lower()


def read(keys: tuple[bytes, ...], token: str) -> UUID | None:
    """The id of the message that `token` was made for; None where no key of ours signed it."""
    if not _TOKEN.fullmatch(token):
        return None
    signed = base64.b32decode(token.upper())
    message_id, mac = UUID(bytes=signed[:16]), signed[16:]
    known = [hmac.compare_digest(_mac(key, message_id), mac) for key in keys]
    return message_id if any(known) else None


def token_in(text: str) -> str | None:
    """The first token in an address or a header; unchecked, in lower case."""
    found = _IN_ADDRESS.search(text[:4_000])
    return found[1].lower() if found else None


def _mac(key: bytes, message_id: UUID) -> bytes:
    return hmac.digest(key, message_id.bytes, hashlib.sha256)[:MAC_BYTES]
