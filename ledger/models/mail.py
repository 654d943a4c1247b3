"""Messages (one email to one recipient), suppressed addresses, and the state of relays."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, Enum, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from ledger.models.registry import SCHEMA, Id, Instant, Model, Now, TenantName


class MessageState(StrEnum):
    """How far a message got."""

    PENDING = "pending"
    SENDING = "sending"
    DOT_SENT = "dot_sent"
    SENT = "sent"
    DEFERRED = "deferred"
    FAILED = "failed"
    SUPPRESSED = "suppressed"
    UNKNOWN = "unknown"


MESSAGE_STATE = Enum(
    MessageState,
    name="message_state",
    schema=SCHEMA,
    values_callable=lambda states: [s.value for s in states],
)


class Message(Model):
    """The unit of "sent exactly once"; exists, with its Message-ID, before the first byte."""

    __tablename__ = "messages"

    id: Mapped[Id]
    tenant: Mapped[TenantName]
    job_id: Mapped[UUID]  # no foreign key: the record of a sent mail outlives its job
    position: Mapped[int]  # within the job: recipients are numbered from 0
    recipient: Mapped[str]
    role: Mapped[str]  # to, cc or bcc
    message_id: Mapped[str]  # the Message-ID header, the same for every attempt
    relay: Mapped[str]
    state: Mapped[MessageState] = mapped_column(MESSAGE_STATE)
    attempt: Mapped[int]  # the fence of the job's attempt that owns the row
    tries: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    reply_code: Mapped[int | None] = mapped_column(SmallInteger)
    enhanced_code: Mapped[str | None]
    reply: Mapped[str | None]  # the relay's last reply, trimmed
    reason: Mapped[str | None]
    created_at: Mapped[Now]
    dot_sent_at: Mapped[Instant | None]
    sent_at: Mapped[Instant | None]
    changed_at: Mapped[Now]

    __table_args__ = (
        CheckConstraint("role IN ('to','cc','bcc')", name="role"),
        CheckConstraint("(state = 'sent') = (sent_at IS NOT NULL)", name="sent_at"),
        Index("uq_messages_job_position", "job_id", "position", unique=True),
        Index("ix_messages_tenant_recipient", "tenant", "recipient"),
    )


class Suppression(Model):
    """An address that must not get mail."""

    __tablename__ = "suppressions"

    tenant: Mapped[TenantName] = mapped_column(primary_key=True)
    address: Mapped[str] = mapped_column(primary_key=True)  # in canonical form
    reason: Mapped[str]
    created_at: Mapped[Now]


class RelayState(Model):
    """What the relays told us: stopped (535) or asked to back off (421)."""

    __tablename__ = "relay_states"

    tenant: Mapped[TenantName] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    stopped_at: Mapped[Instant | None]
    stopped_login: Mapped[str | None]  # fingerprint of the login that was refused
    backoff_until: Mapped[Instant | None]
    backoff_step: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    reason: Mapped[str | None]
    changed_at: Mapped[Now]
