"""Messages: one email to one recipient, the unit of "sent exactly once".

`pending -> sending -> dot_sent -> sent | deferred | failed | suppressed | unknown`

A row and its Message-ID exist before the first byte is sent. `prepare` writes or takes over the
rows of an attempt; every later mark names (message id, attempt), so that an attempt which lost
its claim changes nothing. The statements are in `messages.sql`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import text

from ledger import ids, statements, suppressions
from ledger.addresses import canonical
from ledger.models.mail import MessageState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

SQL = statements.load(Path(__file__).with_suffix(".sql"))
AGO = text("SELECT statement_timestamp() - :ago_s * interval '1 second'")


@dataclass(frozen=True, slots=True)
class Recipient:
    """An address as it goes over the wire, and where it was listed: to, cc or bcc."""

    address: str
    role: str


@dataclass(frozen=True, slots=True)
class Preparation:
    """The messages that one attempt of a job wants to send."""

    tenant: str
    job_id: UUID
    attempt: int
    relay: str
    message_id: str
    recipients: tuple[Recipient, ...]


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message as `prepare` found or made it."""

    id: UUID
    tenant: str
    job_id: UUID
    position: int
    recipient: str
    role: str
    message_id: str
    relay: str
    state: MessageState
    attempt: int
    created_at: datetime
    reply_code: int | None = None
    enhanced_code: str | None = None
    reply: str | None = None
    reason: str | None = None
    dot_age_s: float | None = None  # since the unanswered dot


@dataclass(frozen=True, slots=True)
class Begun:
    """The rows of a first attempt; `backoff_step` > 0: their relay has not yet recovered."""

    rows: list[MessageRow]
    backoff_step: int


@dataclass(frozen=True, slots=True)
class Dot:
    """The final dot is about to go out."""

    id: UUID
    job_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class Mark:
    """The result for a message; `suppress` also stops further mail to its recipient."""

    id: UUID
    attempt: int
    state: MessageState
    reply_code: int | None = None
    enhanced_code: str | None = None
    reply: str | None = None
    reason: str | None = None
    suppress: tuple[str, str] | None = field(default=None, repr=False)  # tenant, address


async def begin(
    connection: AsyncConnection, preparations: Sequence[Preparation]
) -> list[Begun | None]:
    """Write the rows of first attempts, in one statement.

    None: not (all) written, because they exist already or the relay must not be used now;
    then see `prepare`. Suppressed recipients are returned as `suppressed`.
    """
    found: dict[UUID, list[MessageRow]] = {}
    steps: dict[UUID, int] = {}
    asked = [row for preparation in preparations for row in _rows(preparation)]
    for row in await _execute(connection, "insert", asked):
        found.setdefault(row.job_id, []).append(_message(row))
        steps[row.job_id] = row.backoff_step
    return [
        Begun(sorted(found[p.job_id], key=_position), steps[p.job_id])
        if len(found.get(p.job_id, ())) == len(p.recipients)
        else None
        for p in preparations
    ]


async def prepare(
    connection: AsyncConnection, preparations: Sequence[Preparation]
) -> list[list[MessageRow] | None]:
    """Write or take over the rows of each preparation, in the order of its recipients.

    None: a later attempt holds a row, so the claim is lost. Rows that are already settled
    (`sent`, `failed`, ...) are returned as they are. Every statement may be committed on its own.
    """
    if not preparations:
        return []
    asked = [row for preparation in preparations for row in _rows(preparation)]
    await _execute(connection, "insert", asked)
    await _execute(connection, "take_over", asked)
    found: dict[UUID, list[MessageRow]] = {p.job_id: [] for p in preparations}
    for row in await connection.execute(SQL["rows"], {"job_ids": list(found)}):
        found[row.job_id].append(_message(row))
    return [_owned(found[p.job_id], p) for p in preparations]


async def mark_dots(connection: AsyncConnection, dots: Sequence[Dot]) -> list[bool]:
    """Record that the final dots are about to go out; False: no longer ours, do not send it."""
    rows = [{"id": d.id, "job_id": d.job_id, "attempt": d.attempt} for d in dots]
    marked = {row.id for row in await _execute(connection, "mark_dots", rows)}
    return [dot.id in marked for dot in dots]


async def mark(connection: AsyncConnection, marks: Sequence[Mark]) -> list[bool]:
    """Record the results for messages; False: another attempt holds it, nothing changed."""
    rows = [
        {
            "id": m.id,
            "attempt": m.attempt,
            "state": m.state.value,
            "reply_code": m.reply_code,
            "enhanced_code": m.enhanced_code,
            "reply": _storable(m.reply),
            "reason": _storable(m.reason),
        }
        for m in marks
    ]
    marked = {row.id for row in await _execute(connection, "mark", rows)}
    unwanted = [
        (*m.suppress, _storable(m.reason) or "") for m in marks if m.suppress and m.id in marked
    ]
    if unwanted:
        # In autocommit the mark may be committed and this not; the address then bounces once more.
        await suppressions.suppress_many(connection, unwanted)
    return [m.id in marked for m in marks]


@dataclass(slots=True)
class Abandoned:
    """A walk over the jobs that ended badly, in the order in which they ended, and their messages.

    Starts with those that ended in the last `back_s`; every step continues where the last one
    stopped, so that each job is looked at once, however many there are.
    """

    back_s: float = 86_400.0
    since_s: float = 120.0  # ended longer ago than any transaction may take to commit
    after: datetime | None = None
    after_id: UUID = field(default=UUID(int=0))

    async def settle(self, database: AsyncEngine, *, limit: int) -> Settled:
        """Settle the open messages of the next `limit` jobs, and commit."""
        async with database.begin() as connection:
            if self.after is None:
                ago = await connection.execute(AGO, {"ago_s": self.back_s})
                self.after = ago.scalar_one()
            values = {"after": self.after, "after_id": self.after_id, "limit": limit}
            row = (
                await connection.execute(
                    SQL["settle_abandoned"], {**values, "since_s": self.since_s}
                )
            ).one()
        if row.looked_at:
            self.after, self.after_id = row.until, row.until_id
        return Settled(looked_at=row.looked_at, unknown=row.unknown, failed=row.failed)


@dataclass(frozen=True, slots=True)
class Settled:
    """How many jobs were looked at, and the results for their messages."""

    looked_at: int
    unknown: int
    failed: int


def _storable(words: str | None) -> str | None:
    """`words` as Postgres accepts them: a reply to the dot must not be lost over its wording."""
    if words is None:
        return None
    return words.replace("\x00", "").encode(errors="replace").decode()


def _rows(preparation: Preparation) -> Iterable[dict[str, Any]]:
    for position, recipient in enumerate(preparation.recipients):
        yield {
            "id": ids.new(),
            "tenant": preparation.tenant,
            "job_id": preparation.job_id,
            "attempt": preparation.attempt,
            "position": position,
            "recipient": recipient.address,
            "address": canonical(recipient.address),
            "role": recipient.role,
            "message_id": preparation.message_id,
            "relay": preparation.relay,
        }


async def _execute(
    connection: AsyncConnection, statement: str, rows: Sequence[dict[str, Any]]
) -> Iterable[Row[Any]]:
    return await connection.execute(SQL[statement], {"rows": to_json(rows).decode()})


def _message(row: Row[Any]) -> MessageRow:
    return MessageRow(
        id=row.id,
        tenant=row.tenant,
        job_id=row.job_id,
        position=row.position,
        recipient=row.recipient,
        role=row.role,
        message_id=row.message_id,
        relay=row.relay,
        state=MessageState(row.state),
        attempt=row.attempt,
        created_at=row.created_at,
        reply_code=row.reply_code,
        enhanced_code=row.enhanced_code,
        reply=row.reply,
        reason=row.reason,
        dot_age_s=row.dot_age_s,
    )


def _owned(rows: list[MessageRow], preparation: Preparation) -> list[MessageRow] | None:
    """The rows, unless a later attempt holds one or the relay was stopped meanwhile."""
    if len(rows) < len(preparation.recipients):
        return None
    return None if any(row.attempt > preparation.attempt for row in rows) else rows


def _position(row: MessageRow) -> int:
    return row.position
