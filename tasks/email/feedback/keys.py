"""The keys of what goes out and comes back, derived as those of callbacks are.

HMAC-SHA256(master, label and what it is for), the master being RELAIS_CALLBACK_SECRET: nothing has
to be stored, and no key is worth anything for another purpose (docs/adr/secrets-of-endpoints.md).
"""

from __future__ import annotations

import hashlib
import hmac

from runtime.errors import SettingsError
from tasks.outbound import signature


def derive(setting: str, *, label: str, names: tuple[str, ...] = ()) -> tuple[bytes, ...]:
    """One key of 32 bytes for each secret in RELAIS_CALLBACK_SECRET, the new one first.

    `label` says what the key is for, and has a version; `names` whose it is.
    """
    words = "\n".join((label, *names)).encode()
    return tuple(hmac.digest(key, words, hashlib.sha256) for key in signature.secrets_of(setting))


def newest(keys: tuple[bytes, ...]) -> bytes:
    """The key to sign with."""
    if not keys:
        sentence = "RELAIS_CALLBACK_SECRET is not set, so nothing can be signed."
        remedy = "Make one: printf 'whsec_%s' \"$(head -c 32 /dev/urandom | base64)\"."
        raise SettingsError(sentence, remedy=remedy)
    return keys[0]
