"""What email writes into the ledger, many messages per commit.

While Postgres accepts no writes (down, read-only, out of connections) the writers wait for it. A
message that has not begun, or is between body and dot with a relay on the line, waits for some
seconds. A result waits for as long as it takes, whatever happens to the job meanwhile: a reply to
the dot, or the knowledge that no dot went out. Its fence makes that safe: if another attempt has
taken the message over, nothing is written. Only the end of the process ends the wait (`leave`).
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy.exc import DBAPIError

from ledger import messages, outage, relay_states
from ledger.errors import LedgerUnavailable
from ledger.group_commit import GroupCommit
from ledger.relay_states import RelayNow
from runtime import logs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from ledger.messages import Dot, Mark, MessageRow, Preparation
    from tasks.email.relays import Relay

log = logs.logger("email")

Item = TypeVar("Item")
Result = TypeVar("Result")

PREPARE_PATIENCE_S = 20.0
DOT_PATIENCE_S = 20.0
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 0.5  # a mark must be written before the job can be taken over


@dataclass(frozen=True, slots=True)
class Opening:
    """The messages of one attempt, and the login it would use."""

    preparation: Preparation
    login: str | None


@dataclass(frozen=True, slots=True)
class Opened:
    """`rows` None: the relay must not be used now (see `relay`), or the claim is lost."""

    relay: RelayNow
    rows: list[MessageRow] | None

    @property
    def is_blocked(self) -> bool:
        """Whether the relay is stopped or backing off; then nothing was written."""
        return self.relay.is_blocked


_writers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[AsyncEngine, MessageWriter]] = (
    WeakKeyDictionary()
)


def of(database: AsyncEngine) -> MessageWriter:
    """The writer for `database` in the running event loop."""
    writers = _writers.setdefault(asyncio.get_running_loop(), {})
    if database not in writers:
        writers[database] = MessageWriter(database)
    return writers[database]


def leave(*, within_s: float) -> None:
    """This process is about to end: writes not accepted within `within_s` are dropped.

    For the running event loop. Waiting callers get LedgerUnavailable, and a message whose reply is
    lost with this process stays `dot_sent`.
    """
    for writer in _writers.get(asyncio.get_running_loop(), {}).values():
        writer.leave(within_s=within_s)


class MessageWriter:
    """Group commits on one database: openings, dots, and results of messages."""

    def __init__(self, database: AsyncEngine) -> None:
        # Each statement is a transaction: one round trip instead of three. All of them are fenced
        # and may be repeated, so none depends on another.
        self._database = database.execution_options(isolation_level="AUTOCOMMIT")
        self._openings: GroupCommit[Opening, Opened] = GroupCommit(self._write_openings)
        self._dots: GroupCommit[Dot, bool] = GroupCommit(self._write_dots)
        self._marks: GroupCommit[Mark, bool] = GroupCommit(self._write_marks)
        self._leaves_at = math.inf  # monotonic

    def leave(self, *, within_s: float) -> None:
        """Wait for Postgres no longer than this, whatever is pending."""
        self._leaves_at = time.monotonic() + within_s

    async def open(self, opening: Opening) -> Opened:
        """Write or take over an attempt's messages; raises LedgerUnavailable."""
        return await self._openings.submit(opening)

    def dot(self, dot: Dot) -> asyncio.Future[bool]:
        """Commit that the dot is about to go out; False: it must not."""
        return self._dots.enqueue(dot)

    def mark(self, mark: Mark) -> asyncio.Future[bool]:
        """Commit the result of a message; False: another attempt holds it."""
        return self._marks.enqueue(mark)

    async def stop(self, relay: Relay, *, tenant: str, reason: str) -> None:
        """Send nothing through `relay` until it is resumed or its login changes."""

        async def write(connection: AsyncConnection) -> None:
            await relay_states.stop(
                connection, tenant=tenant, name=relay.name, reason=reason, login=relay.login
            )

        await self._patiently(write, patience_s=PREPARE_PATIENCE_S)
        log.error("relay.stopped", relay=relay.name, tenant=tenant)

    async def back_off(self, relay: Relay, *, tenant: str, reason: str) -> float:
        """Back `relay` off; seconds until it is tried again."""

        async def write(connection: AsyncConnection) -> float:
            return await relay_states.back_off(
                connection,
                tenant=tenant,
                name=relay.name,
                base_s=relay.backoff_s,
                cap_s=relay.backoff_cap_s,
                reason=reason,
            )

        backoff_s = await self._patiently(write, patience_s=PREPARE_PATIENCE_S)
        log.warning("relay.backing_off", relay=relay.name, tenant=tenant, backoff_s=backoff_s)
        return backoff_s

    async def recover(self, relay: Relay, *, tenant: str) -> None:
        """The relay accepts messages again."""

        async def write(connection: AsyncConnection) -> None:
            await relay_states.recover(connection, tenant=tenant, name=relay.name)

        await self._patiently(write, patience_s=PREPARE_PATIENCE_S)
        log.info("relay.recovered", relay=relay.name, tenant=tenant)

    async def _write_openings(self, openings: Sequence[Opening]) -> list[Opened]:
        async def write(connection: AsyncConnection) -> list[Opened]:
            begun = await messages.begin(connection, [o.preparation for o in openings])
            rest = [o for o, new in zip(openings, begun, strict=True) if new is None]
            others = iter(await _reopen(connection, rest) if rest else ())
            return [
                next(others)
                if new is None
                else Opened(RelayNow(backoff_step=new.backoff_step), new.rows)
                for new in begun
            ]

        return await self._patiently(write, patience_s=PREPARE_PATIENCE_S)

    async def _write_dots(self, dots: Sequence[Dot]) -> list[bool]:
        return await self._patiently(
            lambda connection: messages.mark_dots(connection, dots), patience_s=DOT_PATIENCE_S
        )

    async def _write_marks(self, marks: Sequence[Mark]) -> list[bool]:
        return await self._patiently(
            lambda connection: messages.mark(connection, marks), patience_s=math.inf
        )

    async def _patiently(
        self, write: Callable[[AsyncConnection], Awaitable[Result]], *, patience_s: float
    ) -> Result:
        """Retry `write` until Postgres accepts it; it must be safe to repeat.

        Raises LedgerUnavailable, with Postgres' last message, when the time is up.
        """
        started = time.monotonic()
        wait_s = RETRY_FIRST_S
        failures = 0
        while True:
            try:
                async with self._database.connect() as connection:
                    return await write(connection)
            except Exception as error:
                if not outage.is_passing(error):
                    raise
                failures += 1
                if failures in {1, 10, 100, 1000}:
                    log.warning("messages.waiting", failures=failures, error=type(error).__name__)
                if time.monotonic() + wait_s > min(started + patience_s, self._leaves_at):
                    waited_s = time.monotonic() - started
                    sentence = (
                        f"The ledger accepted no writes for {waited_s:.0f} s: {_words(error)}."
                    )
                    raise LedgerUnavailable(sentence) from error
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MAX_S)


async def _reopen(connection: AsyncConnection, openings: Sequence[Opening]) -> list[Opened]:
    """Later attempts, and relays with a history."""
    relays = await _relays_now(connection, openings)
    usable = [o for o, now in zip(openings, relays, strict=True) if not now.is_blocked]
    prepared = iter(await messages.prepare(connection, [o.preparation for o in usable]))
    return [Opened(now, None if now.is_blocked else next(prepared)) for now in relays]


async def _relays_now(connection: AsyncConnection, openings: Sequence[Opening]) -> list[RelayNow]:
    pairs = [(o.preparation.tenant, o.preparation.relay) for o in openings]
    known = await relay_states.look(connection, pairs)
    for opening, pair in zip(openings, pairs, strict=True):
        now = known.get(pair)
        if now is None or not now.is_stopped or now.stopped_login == opening.login:
            continue
        if await relay_states.resume_with_new_login(
            connection, tenant=pair[0], name=pair[1], login=opening.login
        ):
            log.info("relay.resumed", relay=pair[1], tenant=pair[0], by="new login")
        known.pop(pair)
    for (tenant, name), now in known.items():
        if now.is_blocked and not now.is_parked:  # another client's pause has expired
            await relay_states.park(connection, tenant=tenant, name=name)
    return [known.get(pair, relay_states.IN_ORDER) for pair in pairs]


def _words(error: Exception) -> str:
    """Postgres' message, or that there was none. Addresses and logins stay out of reasons."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    said = getattr(getattr(cause, "diag", None), "message_primary", None)
    return str(said) if said else "Postgres does not respond"
