"""Credentials to caller: API keys looked up in the ledger, cached for a second.

Many keys are looked up together, so that thousands of guesses cost as much as a few look-ups.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gateway.callers import Caller
from gateway.errors import Code, Problem
from gateway.tokens import CHALLENGE, Tokens
from ledger import api_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from gateway.connections import Connections
    from ledger.api_keys import KeyRow

REMEMBER_S = 1.5  # so a revoked key is refused within two seconds
REFRESH_S = 0.5  # looked up again in the background, so that busy keys never wait for it
KEYS_MAX = 10_000  # for existing keys, and for guesses
LOOK_UP_MAX = 500  # keys at once
_TOUCH_AFTER = timedelta(minutes=1)


class Authentication:
    """Identifies the caller behind a request's headers."""

    def __init__(self, ledger: Connections, tokens: Tokens) -> None:
        """`ledger` has connections for a few lookups, so that guessed keys cannot exhaust it."""
        self._ledger = ledger
        self._tokens = tokens
        # Kept separately, so that guesses never evict a real key.
        self._known: OrderedDict[bytes, tuple[float, KeyRow | None]] = OrderedDict()
        self._guessed: OrderedDict[bytes, tuple[float, KeyRow | None]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Mapping[bytes, KeyRow]]] = {}
        self._next: tuple[list[bytes], asyncio.Task[Mapping[bytes, KeyRow]]] | None = None

    async def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """The caller; 401 if the credentials are missing, duplicated or not valid."""
        given = _credentials(headers)
        if given.startswith(api_keys.START):
            return await self._holder(given)
        if given.count(".") == 2:
            return self._tokens.verify(given)
        raise _unknown()

    async def _holder(self, key: str) -> Caller:
        if not api_keys.is_well_formed(key):
            raise _unknown()
        sha256 = api_keys.fingerprint(key)
        looked_up_at, row = self._known.get(sha256) or self._guessed.get(sha256, (0.0, None))
        age_s = time.monotonic() - looked_up_at
        if age_s >= REMEMBER_S:
            row = (await asyncio.shield(self._ask(sha256))).get(sha256)
        elif age_s >= REFRESH_S:
            self._ask(sha256)
        if row is None or not hmac.compare_digest(row.sha256, sha256):
            raise _unknown()
        # Only the holder of the real key learns why it no longer works.
        if row.revoked_at is not None:
            raise _ended(Code.KEY_REVOKED, f"The key {row.prefix} was revoked.")
        if row.is_expired:
            raise _ended(Code.KEY_EXPIRED, f"The key {row.prefix} has expired.")
        return Caller(name=row.prefix, tenant=row.tenant, role=row.role, rate_per_s=row.rate_per_s)

    def _ask(self, sha256: bytes) -> asyncio.Task[Mapping[bytes, KeyRow]]:
        """The lookup that includes a key: a pending one that already has it, or the next one."""
        task = self._asking.get(sha256)
        if task is None:
            if self._next is None or len(self._next[0]) >= LOOK_UP_MAX:
                wanted: list[bytes] = []
                self._next = wanted, asyncio.create_task(self._look_up(wanted))
                self._next[1].add_done_callback(self._answered)
            wanted, task = self._next
            wanted.append(sha256)
            self._asking[sha256] = task
        return task

    @staticmethod
    def _answered(task: asyncio.Task[Mapping[bytes, KeyRow]]) -> None:
        """Background lookups may fail silently: the next request asks again and reports it."""
        if not task.cancelled():
            task.exception()

    async def _look_up(self, wanted: list[bytes]) -> Mapping[bytes, KeyRow]:
        """Look up `wanted`, and whatever joins it before a connection is free."""

        async def find(connection: AsyncConnection) -> list[KeyRow]:
            self._close(wanted)
            return await _find_and_touch(connection, wanted)

        try:
            found = {row.sha256: row for row in await self._ledger.call(find)}
        finally:
            self._close(wanted)
            for sha256 in wanted:
                self._asking.pop(sha256, None)
        now = time.monotonic()
        for sha256 in wanted:
            row = found.get(sha256)
            _remember(self._guessed if row is None else self._known, sha256, (now, row))
            (self._known if row is None else self._guessed).pop(sha256, None)
        return found

    def _close(self, wanted: list[bytes]) -> None:
        """No more keys can join."""
        if self._next is not None and self._next[0] is wanted:
            self._next = None


def _remember(
    keys: OrderedDict[bytes, tuple[float, KeyRow | None]],
    sha256: bytes,
    entry: tuple[float, KeyRow | None],
) -> None:
    keys[sha256] = entry
    keys.move_to_end(sha256)
    while len(keys) > KEYS_MAX:
        keys.popitem(last=False)


async def _find_and_touch(connection: AsyncConnection, wanted: Sequence[bytes]) -> list[KeyRow]:
    rows = await api_keys.find_all(connection, wanted)
    now = datetime.now(UTC)
    used = [row.id for row in rows if not row.last_used_at or now - row.last_used_at > _TOUCH_AFTER]
    if used:
        await api_keys.touch(connection, key_ids=used)
    return rows


def _credentials(headers: Iterable[tuple[bytes, bytes]]) -> str:
    found = []
    for name, value in headers:
        if name == b"x-api-key":
            found.append(value)
        elif name == b"authorization":
            scheme, _, rest = value.partition(b" ")
            if scheme.lower() != b"bearer":
                raise Problem(
                    Code.CREDENTIALS_INVALID,
                    "The Authorization header does not begin with the word Bearer.",
                    remedy="Send the header Authorization: Bearer <API key>.",
                    headers=CHALLENGE,
                )
            found.append(rest)
    given = {value.strip().decode("latin-1") for value in found}
    if not given:
        raise Problem(
            Code.CREDENTIALS_MISSING,
            "The request carries no credentials.",
            remedy="Send the header Authorization: Bearer <API key>.",
            headers=CHALLENGE,
        )
    if len(given) > 1:
        message = "The request carries two different credentials."
        raise Problem(Code.CREDENTIALS_INVALID, message, remedy="Send one.", headers=CHALLENGE)
    return given.pop()


def _ended(code: Code, detail: str) -> Problem:
    remedy = "Use another key, or create a new one: ./relais key create."
    return Problem(code, detail, remedy=remedy, headers=CHALLENGE)


def _unknown() -> Problem:
    return Problem(
        Code.CREDENTIALS_INVALID,
        "The credentials are not valid.",
        remedy="Check the key, or create a new one: ./relais key create.",
        headers=CHALLENGE,
    )
