"""Tenants and the API keys that speak for them."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from ledger.models.registry import Id, Instant, Model, Now, TenantName


class Tenant(Model):
    """The owner of rows; `default` until another one is created."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[Now]


class ApiKey(Model):
    """A key is shown once; only its SHA-256 is kept."""

    __tablename__ = "api_keys"

    id: Mapped[Id]
    tenant: Mapped[TenantName] = mapped_column(ForeignKey("tenants.name"))
    name: Mapped[str]
    prefix: Mapped[str]
    sha256: Mapped[bytes]
    role: Mapped[str]
    rate_per_s: Mapped[float | None]
    created_at: Mapped[Now]
    expires_at: Mapped[Instant | None]
    revoked_at: Mapped[Instant | None]
    last_used_at: Mapped[Instant | None]

    __table_args__ = (
        CheckConstraint("role IN ('producer','viewer','operator','admin')", name="role"),
        Index("uq_api_keys_sha256", "sha256", unique=True),
        Index("uq_api_keys_prefix", "prefix", unique=True),
    )
