"""Proof for providers that sign nothing: a secret that only they and we know.

It is derived for each provider and tenant as those of callbacks are, so none has to be stored. It
proves who sent a request, but not when: whoever could read one could send it again.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence

from tasks.email.feedback import keys
from tasks.outbound.signature import WrongSignature

HEADER = "x-relais-secret"
_LABEL = "relais webhook v1"


def secrets_of(setting: str, *, provider: str, tenant: str) -> tuple[str, ...]:
    """What to enter at the provider; while RELAIS_CALLBACK_SECRET is rotated the new one first.

    Letters, digits, - and _ only, since it goes into URLs: https://relais:<secret>@host/path.
    """
    made = keys.derive(setting, label=_LABEL, names=(provider, tenant))
    return tuple(base64.urlsafe_b64encode(key).decode().rstrip("=") for key in made)


def verify(headers: Mapping[str, str], *, secrets: Sequence[str], provider: str) -> None:
    """WrongSignature unless a secret stands in Authorization or X-Relais-Secret.

    Of `Authorization: Basic` the password counts, the name does not.
    """
    shown = _shown(headers)
    if shown is None:
        sentence = f"The request shows no secret of {provider}'s."
        remedy = f"Enter the webhook at {provider} as https://relais:<secret>@..."
        raise WrongSignature(sentence, remedy=remedy)
    known = [hmac.compare_digest(shown, secret.encode()) for secret in secrets if secret]
    if not any(known):
        sentence = f"The request does not show the secret that {provider} was given."
        remedy = "Enter the current secret at the provider."
        raise WrongSignature(sentence, remedy=remedy)


def _shown(headers: Mapping[str, str]) -> bytes | None:
    if own := headers.get(HEADER):
        return own.encode("utf-8", "surrogateescape")
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return rest.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() != "basic":
        return None
    try:
        _, colon, password = base64.b64decode(rest.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return password if colon and password else None
