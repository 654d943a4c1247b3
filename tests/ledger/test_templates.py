"""Stored templates: versions that never change, notes of jobs, default values."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from ledger import defaults, ids, templates
from ledger.errors import NotFound, WrongState
from ledger.templates import Compiled, Content, Note, Saved

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

CONTENT = Content(
    subject="Hello {{ name }}",
    html="<p>Hello {{ name }}</p>",
    mjml=None,
    text=None,
    inlines_css=False,
    variables={"type": "object", "properties": {"name": {"type": "string"}}},
)
COMPILED = Compiled(html=None, text="Hello {{ name }}", mentions=("name",))


async def save(
    database: AsyncEngine, content: Content = CONTENT, *, tenant: str = "default"
) -> Saved:
    async with database.begin() as connection:
        return await templates.save(
            connection, tenant=tenant, name="hello", content=content, compiled=COMPILED, by="ada"
        )


async def test_the_same_content_makes_no_new_version(database: AsyncEngine) -> None:
    assert await save(database) == Saved(1, is_new=True)
    assert await save(database) == Saved(1, is_new=False)
    reordered = {"properties": {"name": {"type": "string"}}, "type": "object"}
    assert await save(database, replace(CONTENT, variables=reordered)) == Saved(1, is_new=False)
    other = replace(CONTENT, subject="Good day")
    assert await save(database, other) == Saved(2, is_new=True)
    assert await save(database) == Saved(3, is_new=True)  # what it was before is a change too
    async with database.connect() as connection:
        listed = await templates.list_versions(connection, tenant="default", name="hello", limit=10)
        assert [row.version for row in listed] == [3, 2, 1]
        assert listed[0].sha256 == listed[2].sha256 == CONTENT.sha256()
        found = await templates.find(connection, tenant="default", name="hello", version=2)
    assert (found.subject, found.reference, found.is_text_derived) == ("Good day", "hello@2", True)
    assert found.parts == {
        "subject": "Good day",
        "html": "<p>Hello {{ name }}</p>",
        "text": "Hello {{ name }}",
    }


async def test_many_who_save_at_once_get_a_version_each(database: AsyncEngine) -> None:
    contents = [replace(CONTENT, subject=f"Number {number}") for number in range(8)]
    saved = await asyncio.gather(*(save(database, content) for content in contents))
    assert sorted(one.version for one in saved) == list(range(1, 9))
    async with database.connect() as connection:
        assert await templates.latest(connection, tenant="default", name="hello") == 8


@pytest.mark.parametrize(
    "change",
    ["subject = 'x'", "html = NULL", "version = 9", "variables = '{}'", "sha256 = '\\x00'"],
)
async def test_a_version_never_changes(database: AsyncEngine, change: str) -> None:
    await save(database)
    with pytest.raises(IntegrityError, match="version 1 of the template hello"):
        async with database.begin() as connection:
            await connection.execute(text(f"UPDATE relais.template_versions SET {change}"))


async def test_the_first_use_is_noted_once(database: AsyncEngine) -> None:
    await save(database)
    found = []
    for _ in range(2):
        async with database.begin() as connection:
            await templates.mark_used(connection, tenant="default", name="hello", version=1)
            found.append(await templates.find(connection, tenant="default", name="hello"))
    assert found[0].used_at is not None
    assert found[0].used_at == found[1].used_at


async def test_an_archived_template_is_there_and_means_nothing_new(database: AsyncEngine) -> None:
    await save(database)
    async with database.begin() as connection:
        assert await templates.archive(connection, tenant="default", name="hello")
        assert not await templates.archive(connection, tenant="default", name="hello")
        with pytest.raises(NotFound, match="is archived"):
            await templates.latest(connection, tenant="default", name="hello")
        found = await templates.find(connection, tenant="default", name="hello", version=1)
        assert found.archived_at is not None
        page: dict[str, Any] = {"tenant": "default", "after": "", "limit": 10}
        assert await templates.list_all(connection, **page) == []
        (listed,) = await templates.list_all(connection, **page, archived=True)
        assert listed.archived_at is not None
    assert await save(database) == Saved(1, is_new=False)
    async with database.connect() as connection:
        assert await templates.latest(connection, tenant="default", name="hello") == 1


async def test_another_tenants_templates_are_not_there(database: AsyncEngine) -> None:
    await save(database)
    async with database.begin() as connection:
        for attempt in (
            templates.find(connection, tenant="other", name="hello"),
            templates.latest(connection, tenant="other", name="hello"),
        ):
            with pytest.raises(NotFound):
                await attempt
        assert not await templates.archive(connection, tenant="other", name="hello")
    assert await save(database, tenant="other") == Saved(1, is_new=True)


async def test_what_the_first_attempt_noted_stays(database: AsyncEngine) -> None:
    job_id = await _job(database)
    first = Note("hello", 1, {"footer": "Bye"})
    async with database.begin() as connection:
        assert await templates.noted(connection, job_id=job_id) is None
        notes = [(job_id, first), (ids.new(), first)]
        assert await templates.note(connection, notes) == [first, None]
        later = Note("hello", 2, {})
        assert await templates.note(connection, [(job_id, later)]) == [first]
        assert await templates.noted(connection, job_id=job_id) == first


async def _job(database: AsyncEngine) -> UUID:
    job_id = ids.new()
    async with database.begin() as connection:
        await connection.execute(
            text("INSERT INTO relais.job_bodies (job_id, payload) VALUES (:id, '{}')"),
            {"id": job_id},
        )
    return job_id


async def put(
    database: AsyncEngine, tenant: str | None, template: str, value: object
) -> defaults.Default:
    async with database.begin() as connection:
        return await defaults.put(
            connection, tenant=tenant, template=template, variable="footer", value=value, by="ada"
        )


async def test_the_nearest_default_comes_first(database: AsyncEngine) -> None:
    await put(database, None, "", "everybody's")
    await put(database, None, "hello", "everybody's, here")
    await put(database, "default", "", {"line": "the tenant's"})
    await put(database, "default", "hello", ["the", "template's"])
    await put(database, "default", "other", "of another template")
    await put(database, "other", "hello", "of another tenant")
    async with database.connect() as connection:
        found = await defaults.look_up(
            connection, tenant="default", template="hello", variables=["footer", "name"]
        )
        assert [row.value for row in found] == [
            ["the", "template's"],
            {"line": "the tenant's"},
            "everybody's, here",
            "everybody's",
        ]


async def test_a_default_is_replaced_listed_and_removed(database: AsyncEngine) -> None:
    first = await put(database, None, "", 1)
    again = await put(database, None, "", None)
    assert (again.id, again.value) == (first.id, None)
    async with database.begin() as connection:
        page: dict[str, Any] = {"tenant": "default", "template": None, "limit": 10}
        assert await defaults.list_all(connection, **page, after=("", 0)) == [again]
        assert await defaults.list_all(connection, **page, after=("footer", again.id)) == []
        place: dict[str, Any] = {"template": "", "variable": "footer"}
        assert not await defaults.remove(connection, tenant="default", **place)
        assert await defaults.remove(connection, tenant=None, **place)
        assert await defaults.list_all(connection, **page, after=("", 0)) == []


async def test_uses_are_added_up(database: AsyncEngine) -> None:
    one, two = await put(database, None, "", 1), await put(database, "default", "", 2)
    async with database.begin() as connection:
        await defaults.count_uses(connection, {two.id: 5, one.id: 1, 10_000: 1})
        await defaults.count_uses(connection, {two.id: 2})
        listed = await defaults.list_all(
            connection, tenant="default", template=None, after=("", 0), limit=10
        )
    assert {row.id: row.used for row in listed} == {one.id: 1, two.id: 7}


async def test_defaults_are_not_endless(
    database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "COUNT_MAX", 1)
    await put(database, "default", "", 1)
    await put(database, "default", "", 2)  # in place of the first
    with pytest.raises(WrongState, match="1 defaults already"):
        await put(database, "default", "hello", 3)
