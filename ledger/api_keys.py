"""API keys: 256 random bits, shown once; the ledger keeps their SHA-256 and a prefix to name them.

A key reads `rls_<43 characters of the secret><6 characters of checksum>`. The checksum lets
anyone (a secret scanner, the gateway) tell a key from a typo without a lookup.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args
from uuid import UUID

from ledger import ids, statements
from ledger.errors import InvalidKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection

Role = Literal["producer", "viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
START = "rls_"
PREFIX_LENGTH = 12
SECRET_BYTES = 32
RATE_MIN_PER_S, RATE_MAX_PER_S = 0.001, 1e6
LONGEST_LIFE_S = 100 * 366 * 86_400.0
_SHAPE = re.compile(r"rls_[A-Za-z0-9_-]{49}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

SQL = statements.load(Path(__file__).with_suffix(".sql"))


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just created; `key` is never shown again."""

    id: UUID
    key: str
    prefix: str


@dataclass(frozen=True, slots=True)
class KeyRow:
    """What the ledger knows of a key; `is_expired` by the database's clock."""

    id: UUID
    tenant: str
    name: str
    prefix: str
    sha256: bytes
    role: Role
    rate_per_s: float | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    is_expired: bool


def mint() -> str:
    """A fresh key."""
    secret = base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).rstrip(b"=").decode()
    return f"{START}{secret}{_checksum(secret)}"


def is_well_formed(key: str) -> bool:
    """Whether `key` has the shape and the checksum of a key; says nothing about its existence."""
    if not _SHAPE.fullmatch(key):
        return False
    return hmac.compare_digest(_checksum(key[len(START) : -6]), key[-6:])


def fingerprint(key: str) -> bytes:
    """The SHA-256 under which `key` is kept."""
    return hashlib.sha256(key.encode()).digest()


async def create(
    connection: AsyncConnection,
    *,
    tenant: str,
    name: str,
    role: str,
    expires_in_s: float | None = None,
    rate_per_s: float | None = None,
    key: str | None = None,
) -> NewKey:
    """Create a key for `tenant` (and a new tenant); `key` only to restore a known one."""
    _check(tenant=tenant, name=name, role=role, expires_in_s=expires_in_s, rate_per_s=rate_per_s)
    if key is not None and not is_well_formed(key):
        message = "The given key is not well formed."
        raise InvalidKey(message, remedy="Omit it to have one created.")
    made = key or mint()
    new = NewKey(id=ids.new(), key=made, prefix=made[:PREFIX_LENGTH])
    await connection.execute(SQL["insert_tenant"], {"tenant": tenant})
    await connection.execute(
        SQL["insert_key"],
        {
            "id": new.id,
            "tenant": tenant,
            "name": name,
            "prefix": new.prefix,
            "sha256": fingerprint(made),
            "role": role,
            "rate_per_s": rate_per_s,
            "expires_in_s": expires_in_s,
        },
    )
    return new


async def find(connection: AsyncConnection, sha256: bytes) -> KeyRow | None:
    """The key with this fingerprint, revoked and expired ones included."""
    found = await find_all(connection, [sha256])
    return found[0] if found else None


async def find_all(connection: AsyncConnection, fingerprints: Sequence[bytes]) -> list[KeyRow]:
    """The keys with these fingerprints, as far as they exist, in no particular order."""
    rows = await connection.execute(SQL["find_keys"], {"fingerprints": list(fingerprints)})
    return [_key(row) for row in rows]


async def list_all(connection: AsyncConnection, *, tenant: str) -> list[KeyRow]:
    """Every key of `tenant`, newest first."""
    return [_key(row) for row in await connection.execute(SQL["list_keys"], {"tenant": tenant})]


async def revoke(connection: AsyncConnection, *, tenant: str, prefix: str) -> bool:
    """Revoke a key permanently; False: there is none with this prefix."""
    result = await connection.execute(SQL["revoke_key"], {"tenant": tenant, "prefix": prefix})
    return result.first() is not None


async def touch(connection: AsyncConnection, *, key_ids: Sequence[UUID]) -> None:
    """Note that these keys are in use, to the minute."""
    await connection.execute(SQL["touch_keys"], {"ids": list(key_ids)})


def _checksum(secret: str) -> str:
    digest = zlib.crc32(secret.encode()).to_bytes(4)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _check(
    *, tenant: str, name: str, role: str, expires_in_s: float | None, rate_per_s: float | None
) -> None:
    if role not in ROLES:
        message = f"There is no role {role!r}."
        raise InvalidKey(message, remedy=f"Use one of {', '.join(ROLES)}.")
    if not _TENANT.fullmatch(tenant):
        message = f"{tenant!r} is not a valid tenant name."
        raise InvalidKey(message, remedy="Use up to 63 of a-z, 0-9, _ and -.")
    if not name.strip() or len(name) > 100 or not name.isprintable():
        message = "A key needs a printable name of 1 to 100 characters."
        raise InvalidKey(message, remedy="Say what will use it.")
    if expires_in_s is not None and not 0 < expires_in_s <= LONGEST_LIFE_S:
        message = "A key's lifetime must be more than 0 seconds and at most 100 years."
        raise InvalidKey(message, remedy="Omit the expiry for a key that does not expire.")
    if rate_per_s is not None and not RATE_MIN_PER_S <= rate_per_s <= RATE_MAX_PER_S:
        message = "A key's rate must be from 0.001 to 1,000,000 requests per second."
        raise InvalidKey(message, remedy="Omit it to use the gateway's limit.")


def _key(row: Row[tuple[object, ...]]) -> KeyRow:
    fields = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    return KeyRow(**{**fields, "sha256": bytes(cast("bytes", fields["sha256"]))})
