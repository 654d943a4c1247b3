"""The key that verifies bearer tokens: validated at every start, used only by the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.errors import SettingsError

if TYPE_CHECKING:
    from runtime.settings import Settings

SECRET_MIN_BYTES = 32


def of(settings: Settings) -> Any:  # noqa: ANN401 - whatever the algorithm wants
    """The prepared RELAIS_JWT_KEY, None if there is none; SettingsError for an invalid one."""
    secret = settings.jwt_key.get_secret_value()
    if not secret:
        return None
    if not settings.jwt_issuer or not settings.jwt_audience:
        message = "RELAIS_JWT_KEY is set, but the issuer or the audience is not."
        raise SettingsError(message, remedy="Set RELAIS_JWT_ISSUER and RELAIS_JWT_AUDIENCE.")
    if settings.jwt_algorithm == "HS256":
        # A public key used as a secret would let anyone sign.
        if "-----BEGIN" in secret:
            message = "RELAIS_JWT_KEY is a PEM key, but RELAIS_JWT_ALGORITHM is HS256."
            raise SettingsError(message, remedy="Set it to the algorithm of the key.")
        if len(secret.encode()) < SECRET_MIN_BYTES:
            message = f"RELAIS_JWT_KEY is shorter than {SECRET_MIN_BYTES} bytes."
            raise SettingsError(message, remedy="Use a longer secret: openssl rand -base64 48.")
    if "PRIVATE KEY-----" in secret:
        # Anyone who read it here could sign, and the gateway does not need to.
        message = "RELAIS_JWT_KEY is a private key; tokens are verified with the public one."
        raise SettingsError(message, remedy="openssl pkey -in private.pem -pubout")
    import jwt  # noqa: PLC0415 - 9 MB that only processes with a key need

    try:
        return jwt.get_algorithm_by_name(settings.jwt_algorithm).prepare_key(secret)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        message = f"RELAIS_JWT_KEY is not a key for {settings.jwt_algorithm}."
        raise SettingsError(message, remedy="Set it to the PEM public key.") from error
