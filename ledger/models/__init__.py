"""The tables, as SQLAlchemy 2 models in the schema `relais`."""

from __future__ import annotations

from ledger.models.access import ApiKey, Tenant
from ledger.models.jobs import (
    Job,
    JobBody,
    JobCount,
    JobCountDelta,
    JobEvent,
    JobParent,
    Lane,
    LaneSettings,
    Queue,
    State,
)
from ledger.models.mail import Message, MessageState, RelayState, Suppression
from ledger.models.registry import SCHEMA, Model
from ledger.models.schedules import Schedule, ScheduleTick
from ledger.models.templates import Template, TemplateDefault, TemplateVersion
from ledger.models.workers import Worker

__all__ = [
    "SCHEMA",
    "ApiKey",
    "Job",
    "JobBody",
    "JobCount",
    "JobCountDelta",
    "JobEvent",
    "JobParent",
    "Lane",
    "LaneSettings",
    "Message",
    "MessageState",
    "Model",
    "Queue",
    "RelayState",
    "Schedule",
    "ScheduleTick",
    "State",
    "Suppression",
    "Template",
    "TemplateDefault",
    "TemplateVersion",
    "Tenant",
    "Worker",
]
