"""Stored templates of mails: a name, and versions under it that never change.

A name alone means its newest version. A template is archived, not deleted: what was sent can be
read again for as long as the ledger is there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic_core import to_json

from ledger import statements
from ledger.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection

SQL = statements.load(Path(__file__).with_suffix(".sql"))
VERSION_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Content:
    """What somebody saves: the parts of a mail, and the variables that they declare."""

    subject: str
    html: str | None
    mjml: str | None
    text: str | None
    inlines_css: bool
    variables: Mapping[str, Any]  # a JSON schema

    def sha256(self) -> bytes:
        """The same for the same content."""
        parts = (self.subject, self.html, self.mjml, self.text, self.inlines_css)
        # Sorted: the order in which keys of a schema were written means nothing.
        schema = to_json(_sorted(self.variables)).decode()
        return hashlib.sha256(to_json([*parts, schema])).digest()


@dataclass(frozen=True, slots=True)
class Compiled:
    """What was made from the content, once."""

    html: str | None  # None: the HTML is sent as it was given
    text: str | None  # None: the text is sent as it was given, or there is none
    mentions: tuple[str, ...]  # the variables that the parts use


@dataclass(frozen=True, slots=True)
class Version:
    """A template as it was saved once."""

    tenant: str
    name: str
    version: int
    subject: str
    html: str | None
    mjml: str | None
    compiled: str | None
    text: str | None
    is_text_derived: bool
    inlines_css: bool
    variables: dict[str, Any]
    mentions: list[str]
    sha256: bytes
    created_at: datetime
    created_by: str
    used_at: datetime | None
    archived_at: datetime | None  # of the template

    @property
    def reference(self) -> str:
        """`name@3`, as jobs name it."""
        return f"{self.name}@{self.version}"

    @property
    def sent_html(self) -> str | None:
        """The HTML that mails are rendered from."""
        return self.html if self.compiled is None else self.compiled

    @property
    def parts(self) -> dict[str, str]:
        """What mails are rendered from, by field of a mail; those that there are."""
        parts = {"subject": self.subject, "html": self.sent_html, "text": self.text}
        return {name: source for name, source in parts.items() if source is not None}


@dataclass(frozen=True, slots=True)
class TemplateRow:
    """A template in a list, with the subject of its newest version."""

    name: str
    latest: int
    subject: str
    created_at: datetime
    created_by: str
    changed_at: datetime
    archived_at: datetime | None


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version in a list."""

    version: int
    subject: str
    sha256: bytes
    created_at: datetime
    created_by: str
    used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Saved:
    """The version that has the content now; `is_new` False: it had it already."""

    version: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class Note:
    """What the mail of a job is made from: a version, and default values that callers cannot see.

    Noted by the first attempt that could render it, so that every other sends the same bytes.
    """

    name: str
    version: int
    defaults: dict[str, Any]


async def exists(connection: AsyncConnection, *, tenant: str, name: str) -> bool:
    """Whether there is such a template that is not archived."""
    row = (await connection.execute(SQL["find"], {"tenant": tenant, "name": name})).first()
    return row is not None and row.archived_at is None


async def save(
    connection: AsyncConnection,
    *,
    tenant: str,
    name: str,
    content: Content,
    compiled: Compiled,
    by: str,
) -> Saved:
    """Store `content` as the newest version, unless the newest one has it already.

    An archived template is one again.
    """
    key = {"tenant": tenant, "name": name}
    row = (await connection.execute(SQL["begin"], {**key, "by": by})).one()
    sha256 = content.sha256()
    last = (
        await connection.execute(SQL["latest_sha256"], {**key, "version": row.latest})
    ).scalar_one_or_none()
    is_new = last is None or bytes(last) != sha256
    version = row.latest + is_new
    if is_new:
        values = {
            "version": version,
            "subject": content.subject,
            "html": content.html,
            "mjml": content.mjml,
            "compiled": compiled.html,
            "text": content.text if compiled.text is None else compiled.text,
            "is_text_derived": compiled.text is not None,
            "inlines_css": content.inlines_css,
            "variables": to_json(content.variables).decode(),
            "mentions": list(compiled.mentions),
            "sha256": sha256,
            "by": by,
        }
        await connection.execute(SQL["add_version"], {**key, **values})
    if is_new or row.archived_at is not None:
        await connection.execute(SQL["point_to"], {**key, "version": version})
    return Saved(version, is_new)


async def archive(connection: AsyncConnection, *, tenant: str, name: str) -> bool:
    """Make nothing new from it; False where there is none, or it is archived already."""
    result = await connection.execute(SQL["archive"], {"tenant": tenant, "name": name})
    return result.first() is not None


async def find(
    connection: AsyncConnection, *, tenant: str, name: str, version: int | None = None
) -> Version:
    """That version, or the newest one; raises NotFound. Archived ones are found as well."""
    values = {"tenant": tenant, "name": name, "version": version}
    row = (await connection.execute(SQL["find_version"], values)).first()
    if row is None:
        raise unknown(name, version)
    fields = row._asdict()
    return Version(**{**fields, "sha256": bytes(row.sha256)})


async def latest(connection: AsyncConnection, *, tenant: str, name: str) -> int:
    """The version that `name` means now; raises NotFound, also where it is archived."""
    row = (await connection.execute(SQL["latest"], {"tenant": tenant, "name": name})).first()
    if row is None:
        raise unknown(name, None)
    if row.archived_at is not None:
        message = f"The template {name!r} is archived."
        raise NotFound(message, remedy="Save it again, or name a version: NAME@1.")
    return int(row.latest)


async def list_all(
    connection: AsyncConnection, *, tenant: str, after: str, limit: int, archived: bool = False
) -> list[TemplateRow]:
    """One page by name, starting behind `after`; `archived`: those as well."""
    values = {"tenant": tenant, "after": after, "limit": limit, "archived": archived}
    return [TemplateRow(**row._asdict()) for row in await connection.execute(SQL["list"], values)]


async def list_versions(
    connection: AsyncConnection,
    *,
    tenant: str,
    name: str,
    before: int = VERSION_MAX,
    limit: int,
) -> list[VersionRow]:
    """One page, the newest first, of versions older than `before`; none for an unknown name."""
    values = {"tenant": tenant, "name": name, "before": before, "limit": limit}
    rows = await connection.execute(SQL["list_versions"], values)
    return [_version_row(row) for row in rows]


async def mark_used(connection: AsyncConnection, *, tenant: str, name: str, version: int) -> None:
    """Note that a mail was made from it, the first time."""
    values = {"tenant": tenant, "name": name, "version": version}
    await connection.execute(SQL["mark_used"], values)


async def noted(connection: AsyncConnection, *, job_id: UUID) -> Note | None:
    """What an earlier attempt has noted for the job."""
    found = (await connection.execute(SQL["noted"], {"id": job_id})).scalar_one_or_none()
    return None if found is None else Note(**found)


async def note(
    connection: AsyncConnection, notes: Sequence[tuple[UUID, Note]]
) -> list[Note | None]:
    """Note it for each job: what stands now, which is the first that was noted; None: no job."""
    rows = [
        {
            "job_id": job_id,
            "template": {"name": note.name, "version": note.version, "defaults": note.defaults},
        }
        for job_id, note in notes
    ]
    found = {
        row.job_id: Note(**row.template)
        for row in await connection.execute(SQL["note"], {"rows": to_json(rows).decode()})
    }
    return [found.get(job_id) for job_id, _ in notes]


def unknown(name: str, version: int | None) -> NotFound:
    """There is no such template, or no such version of it."""
    what = f"template {name!r}" if version is None else f"version {version} of a template {name!r}"
    return NotFound(f"There is no {what}.", remedy="GET /api/v1/templates lists what there is.")


def _version_row(row: Row[Any]) -> VersionRow:
    return VersionRow(**{**row._asdict(), "sha256": bytes(row.sha256)})


def _sorted(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value
