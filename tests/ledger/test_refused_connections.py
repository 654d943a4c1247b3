"""What a server says to a new connection: some of it lasts until it is changed, the rest may pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from ledger import fitness
from ledger.session import libpq_url

if TYPE_CHECKING:
    from runtime.settings import Settings

ROLE = "relais_test_refused"


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    """Of a role of its own, which each test makes unfit."""
    ours = libpq_url(settings.require_database_url())
    parts = urlsplit(ours)
    database = parts.path[1:]
    with psycopg.connect(ours, autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'right'".encode())
        superuser.execute(f'GRANT CONNECT ON DATABASE "{database}" TO {ROLE}'.encode())
        yield f"postgresql://{ROLE}:right@{parts.hostname}:{parts.port}/{database}"
        superuser.execute(f"DROP OWNED BY {ROLE}".encode())
        superuser.execute(f"DROP ROLE {ROLE}".encode())


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        # As where its disk is full: the server cannot do what a session begins with.
        (f"ALTER ROLE {ROLE} SET session_preload_libraries = 'no_such'", "could not access file"),
        (f"ALTER ROLE {ROLE} CONNECTION LIMIT 0", "too many connections"),
    ],
)
def test_what_may_pass_ends_no_process(
    settings: Settings, url: str, statement: str, said: str
) -> None:
    with psycopg.connect(libpq_url(settings.require_database_url()), autocommit=True) as superuser:
        superuser.execute(statement.encode())
    found = fitness.ask("RELAIS_DATABASE_URL", url)
    assert found is not None
    assert said in found.sentence
    assert found.is_passing


@pytest.mark.parametrize(
    ("statement", "said", "remedy"),
    [
        (f"ALTER ROLE {ROLE} PASSWORD 'another'", "authentication failed", "password"),
        (f"ALTER ROLE {ROLE} NOLOGIN", "not permitted to log in", "user"),
    ],
)
def test_what_lasts_ends_it_with_a_remedy(
    settings: Settings, url: str, statement: str, said: str, remedy: str
) -> None:
    with psycopg.connect(libpq_url(settings.require_database_url()), autocommit=True) as superuser:
        superuser.execute(statement.encode())
    found = fitness.ask("RELAIS_DATABASE_URL", url)
    assert found is not None
    assert said in found.sentence
    assert remedy in found.remedy
    assert not found.is_passing
