"""Bearer tokens (JWT, RFC 8725): one pinned algorithm, exact issuer and audience, an expiry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from gateway.callers import Caller
from gateway.errors import Code, Problem
from ledger.api_keys import ROLES, Role
from runtime import token_key

if TYPE_CHECKING:
    from runtime.settings import Settings

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="relais"'}
LEEWAY_S = 5
TOKEN_MAX_BYTES = 8_192
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_SUBJECT = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,99}")


class Tokens:
    """Verifies tokens according to the settings; without a key it refuses them all."""

    def __init__(self, settings: Settings) -> None:
        self._algorithm = settings.jwt_algorithm
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._key = token_key.of(settings)

    def verify(self, token: str) -> Caller:
        """The caller that `token` speaks for; 401 for anything but a perfect token."""
        if self._key is None:
            message = "Bearer tokens are not enabled here; use an API key."
            raise Problem(Code.CREDENTIALS_INVALID, message, headers=CHALLENGE)
        if len(token) > TOKEN_MAX_BYTES:
            raise _refused()
        import jwt  # noqa: PLC0415 - 9 MB that only gateways with a key need

        try:
            claims = jwt.decode(
                token,
                key=self._key,
                algorithms=[self._algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"], "strict_aud": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise _refused() from error
        return _caller(claims)


def _caller(claims: dict[str, Any]) -> Caller:
    role, tenant, subject = claims.get("role"), claims.get("tenant"), claims.get("sub", "token")
    if role not in ROLES or not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        message = "The token does not name a role and a tenant."
        raise Problem(
            Code.CREDENTIALS_INVALID,
            message,
            remedy=f"It needs the claims role ({', '.join(ROLES)}) and tenant.",
            headers=CHALLENGE,
        )
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise _refused()
    return Caller(name=f"token:{subject}", tenant=tenant, role=cast("Role", role))


def _refused() -> Problem:
    # Which check failed is not revealed to anyone without a valid token.
    message = "The bearer token is not valid."
    return Problem(Code.CREDENTIALS_INVALID, message, headers=CHALLENGE)
