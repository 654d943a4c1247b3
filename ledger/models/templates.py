"""Stored templates of mails, their versions, and default values of variables."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Identity,
    Index,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ledger.models.registry import Instant, Model, Now, TenantName


class Template(Model):
    """A name under which versions are stored; archived, not deleted."""

    __tablename__ = "templates"

    tenant: Mapped[TenantName] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    latest: Mapped[int]  # its newest version
    created_at: Mapped[Now]
    created_by: Mapped[str]
    changed_at: Mapped[Now]
    archived_at: Mapped[Instant | None]

    __table_args__ = (CheckConstraint("name ~ '^[A-Za-z0-9_.-]{1,64}$'", name="name"),)


class TemplateVersion(Model):
    """What a template was at a time; a trigger lets nothing of it change but `used_at`, once."""

    __tablename__ = "template_versions"

    tenant: Mapped[TenantName] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    subject: Mapped[str]
    html: Mapped[str | None]
    mjml: Mapped[str | None]
    compiled: Mapped[str | None]  # the HTML that was made from either; None: html is sent as it is
    text: Mapped[str | None]
    is_text_derived: Mapped[bool]
    inlines_css: Mapped[bool]
    variables: Mapped[dict[str, Any]] = mapped_column(JSONB)  # those declared, as a JSON schema
    mentions: Mapped[list[str]] = mapped_column(ARRAY(Text))  # the variables that it uses
    sha256: Mapped[bytes]  # of what was given
    created_at: Mapped[Now]
    created_by: Mapped[str]
    used_at: Mapped[Instant | None]  # the first time

    __table_args__ = (
        ForeignKeyConstraint(["tenant", "name"], ["templates.tenant", "templates.name"]),
        CheckConstraint("version > 0", name="version"),
        CheckConstraint("html IS NULL OR mjml IS NULL", name="one_source"),
    )


class TemplateDefault(Model):
    """The value of a variable that a caller leaves out."""

    __tablename__ = "template_defaults"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant: Mapped[str | None]  # None: of every tenant
    template: Mapped[str] = mapped_column(server_default=text("''"))  # '': in every template
    variable: Mapped[str]
    value: Mapped[Any] = mapped_column(JSONB)
    used: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    changed_at: Mapped[Now]
    changed_by: Mapped[str]

    __table_args__ = (
        Index(
            "uq_template_defaults_place",
            "tenant",
            "template",
            "variable",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
    )
