"""Recurring jobs and the ticks that were fired."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ledger.models.registry import Id, Instant, Model, Now, TenantName


class Schedule(Model):
    """A user's own schedule: cron expression in a time zone, and the job that it accepts."""

    __tablename__ = "schedules"

    id: Mapped[Id]
    tenant: Mapped[TenantName]
    name: Mapped[str]
    cron: Mapped[str]
    timezone: Mapped[str]
    job: Mapped[dict[str, Any]] = mapped_column(JSONB)  # kind, payload, queue, priority, ...
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[Now]
    changed_at: Mapped[Now]
    fired_until: Mapped[Instant]  # nominal times up to here have been handled

    __table_args__ = (Index("uq_schedules_tenant_name", "tenant", "name", unique=True),)


class ScheduleTick(Model):
    """One firing; unique by (schedule, nominal time), so two beats fire it once."""

    __tablename__ = "schedule_ticks"

    schedule: Mapped[str] = mapped_column(primary_key=True)  # "system:NAME" or the schedule's id
    nominal_at: Mapped[Instant] = mapped_column(primary_key=True)
    tenant: Mapped[TenantName] = mapped_column(ForeignKey("tenants.name"))
    job_id: Mapped[UUID]
    fired_at: Mapped[Now]
