"""Templates as callers see them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from ledger.templates import Version


class TemplateBrief(BaseModel):
    """A template in the list, with the subject of its newest version."""

    name: str
    latest: int = Field(description="The version that the name alone means.")
    subject: str
    created_at: datetime
    created_by: str
    changed_at: datetime
    archived_at: datetime | None


class TemplatePage(BaseModel):
    """Templates by name; `next` goes into `after` to get the next page."""

    templates: list[TemplateBrief]
    next: str | None


class VersionView(BaseModel):
    """A version with its parts."""

    name: str
    version: int
    subject: str
    html: str | None = Field(description="As it was given.")
    mjml: str | None = Field(description="As it was given.")
    compiled: str | None = Field(description="What is sent where it is not the HTML as given.")
    text: str | None
    is_text_derived: bool = Field(description="It was made from the HTML.")
    inline_css: bool
    variables: dict[str, Any] = Field(description="Those declared, as a JSON schema.")
    mentions: list[str] = Field(description="The variables that it uses.")
    sha256: str = Field(description="Of what was given.")
    created_at: datetime
    created_by: str
    used_at: datetime | None = Field(description="When a mail was first made from it.")
    archived_at: datetime | None = Field(description="Of the template.")


class SavedView(VersionView):
    """The version that has the content now."""

    is_new: bool = Field(description="False: the newest version had this content already.")


class VersionBrief(BaseModel):
    """A version in the list."""

    version: int
    subject: str
    sha256: str
    created_at: datetime
    created_by: str
    used_at: datetime | None


class VersionPage(BaseModel):
    """Versions, the newest first; `next` goes into `before` to get the next page."""

    versions: list[VersionBrief]
    next: int | None


class DiffView(BaseModel):
    """What differs; parts that are the same are left out."""

    parts: dict[str, str] = Field(description="A unified diff for each part.")


class PreviewView(BaseModel):
    """What would be sent."""

    template: str = Field(description="The version: `name@3`.")
    subject: str | None
    html: str | None
    text: str | None
    raw_bytes: int | None = Field(description="The size of the mail as it goes over the wire.")
    missing: list[str] = Field(description="Required variables that have no value.")
    unset: list[str] = Field(description="All that the template uses and that have no value.")
    defaults: list[str] = Field(description="Variables whose value is a default set beside it.")
    error: str | None = Field(description="Why it could not be rendered.")


def comparable(version: Version) -> dict[str, str]:
    """What two versions are compared by, part by part."""
    parts = {
        "subject": version.subject,
        "html": version.html,
        "mjml": version.mjml,
        "text": version.text,
        "variables": json.dumps(version.variables, indent=2, sort_keys=True, ensure_ascii=False),
    }
    return {name: text for name, text in parts.items() if text is not None}


def version_view(version: Version) -> dict[str, Any]:
    """A VersionView of it."""
    own = {"inline_css": version.inlines_css, "sha256": version.sha256.hex()}
    return {
        name: getattr(version, name) for name in VersionView.model_fields if name not in own
    } | own
