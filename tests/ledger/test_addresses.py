"""Spellings of one address have one form, wherever it is compared."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unicodedata import normalize

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as some

from ledger import migrate, suppressions
from ledger.addresses import canonical
from tasks.email.addresses import wire_form

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

# As they may be stored, named by a caller, or reported by a relay.
SPELLINGS = (
    "zoé@straße.example",
    "ZOÉ@STRAßE.EXAMPLE",
    normalize("NFD", "zoé@straße.example"),
    "zoé@straße。example",
    "zoé@xn--strae-oqa.example",
    "zoé@XN--STRAE-OQA.example",
    "  Zoé@straße.example. ",
)
FORM = "zoé@xn--strae-oqa.example"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_has_one_form(spelling: str) -> None:
    assert canonical(spelling) == FORM


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a@straße.example", "a@strasse.example"),  # two domains: IDNA 2008, not 2003
        ("ß@example.org", "ss@example.org"),
        ("a@b.example", "a@c.example"),
    ],
)
def test_what_is_not_one_address_is_told_apart(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


@given(some.text(max_size=40))
def test_the_form_of_a_form_is_itself(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@given(
    some.from_regex(r"[a-zA-Z0-9éÄß]{1,8}", fullmatch=True),
    some.from_regex(r"[a-zA-ZéÄüñж][a-zA-Z0-9éÄßüñж]{0,8}[a-z]", fullmatch=True),
)
def test_an_address_has_the_form_of_what_goes_over_the_wire(local: str, label: str) -> None:
    try:
        wire = wire_form(f"{local}@{label}.example")
    except ValueError:
        return
    assert canonical(f"{local}@{label}.example") == canonical(wire)


async def test_rows_from_before_are_found_again_after_the_migration(
    database_url: str, database: AsyncEngine
) -> None:
    before = ["zoé@straße.example", "zoé@xn--strae-oqa.example", "b@müller.example", "c@x.example"]
    with psycopg.connect(database_url, autocommit=True) as driver:
        driver.execute("DELETE FROM relais.schema_version")
        driver.execute("INSERT INTO relais.schema_version VALUES ('post_0002')")
        for phase in ("pre", "post"):  # what the release before writes between the two, too
            for address in before:
                driver.execute(
                    "INSERT INTO relais.suppressions (tenant, address, reason)"
                    " VALUES ('acme', %s, 'asked') ON CONFLICT DO NOTHING",
                    (address,),
                )
            migrate.migrate(database_url, phase)
            found = driver.execute("SELECT address FROM relais.suppressions ORDER BY address")
            assert [address for (address,) in found] == [
                "b@xn--mller-kva.example",
                "c@x.example",
                FORM,
            ]
    async with database.connect() as connection:
        for spelling in SPELLINGS:
            assert await suppressions.find(connection, tenant="acme", address=spelling)
