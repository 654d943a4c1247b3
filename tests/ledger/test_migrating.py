"""Migrations beside running code: short waits for locks, slices, indexes that are built live."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy.exc import OperationalError

from ledger import migrate
from ledger.errors import LedgerUnavailable
from ledger.migrations import steps
from tests.waiting import block_until, within

ONE_MORE = """
from alembic import op
from ledger.migrations.steps import *

revision = "pre_one_more"
down_revision = "{head}"
branch_labels = depends_on = None

def upgrade():
{body}
"""
NewMigration = Callable[[str], None]


@pytest.fixture
def one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewMigration:
    """Adds a migration to those that there are: the body of its `upgrade`."""

    def add(body: str) -> None:
        versions = tmp_path / "versions"
        shutil.copytree(migrate._VERSIONS, versions, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.setattr(migrate, "_VERSIONS", versions)
        scripts = ScriptDirectory.from_config(migrate.configuration(None))  # type: ignore[arg-type]
        head = scripts.get_revision("pre@head").revision
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        (versions / "pre" / "9999_one_more.py").write_text(ONE_MORE.format(head=head, body=lines))

    return add


@pytest.fixture
def server(database_url: str) -> Iterator[Callable[[], psycopg.Connection[Any]]]:
    """Connections to the test's database, closed at the end."""
    opened: list[psycopg.Connection[Any]] = []

    def connect() -> psycopg.Connection[Any]:
        opened.append(psycopg.connect(database_url, autocommit=True))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


class Migrating(threading.Thread):
    """`migrate pre` in the background."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            migrate.migrate(self._url, "pre")
        except BaseException as error:  # noqa: BLE001 - told to the test
            self.error = error

    def end(self) -> None:
        self.join(30)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error


def column_exists(connection: psycopg.Connection[Any], column: str) -> bool:
    found = connection.execute(
        "SELECT FROM information_schema.columns WHERE table_name = 'jobs' AND column_name = %s",
        (column,),
    )
    return found.fetchone() is not None


def waits_for_a_lock(connection: psycopg.Connection[Any]) -> bool:
    found = connection.execute(
        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'relais migrate'"
        " AND datname = current_database() AND wait_event_type = 'Lock'"
    )
    return found.fetchone() is not None


def test_a_lock_that_somebody_keeps_is_given_up_soon_and_asked_for_again(
    database_url: str,
    server: Callable[[], psycopg.Connection[Any]],
    one_more: NewMigration,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A long read holds up the ALTER; whoever comes next must not queue behind it for as long."""
    one_more("op.execute('ALTER TABLE relais.jobs ADD COLUMN one_more int')")
    reader, writer = server(), server()
    writer.execute("SET statement_timeout = '8s'")
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM relais.jobs")
    migrating = Migrating(database_url)
    began_at = time.monotonic()
    block_until(lambda: waits_for_a_lock(writer))
    while time.monotonic() - began_at < 6:
        with within(3.0, "a read behind the migration, which waits for its lock_timeout"):
            writer.execute("SELECT count(*) FROM relais.jobs")
        assert migrating.is_alive()
    assert not column_exists(writer, "one_more")
    reader.execute("COMMIT")
    migrating.end()
    assert column_exists(writer, "one_more")
    assert "waiting for a lock; the oldest transaction is" in capsys.readouterr().err


def test_patience_ends_with_a_sentence(
    database_url: str,
    server: Callable[[], psycopg.Connection[Any]],
    one_more: NewMigration,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migrate, "LOCK_PATIENCE_S", 0.1)
    one_more("op.execute('ALTER TABLE relais.jobs ADD COLUMN one_more int')")
    reader = server()
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM relais.jobs")
    with pytest.raises(LedgerUnavailable, match="could not get a lock"):
        migrate.migrate(database_url, "pre")


def test_what_is_wrong_is_not_tried_again(database_url: str, one_more: NewMigration) -> None:
    one_more("op.execute('SELECT pg_terminate_backend(pg_backend_pid())')")
    with pytest.raises(OperationalError, match="terminating connection"):
        migrate.migrate(database_url, "pre")


def test_a_second_migration_waits_without_a_transaction_that_the_first_one_waits_for(
    database_url: str,
    server: Callable[[], psycopg.Connection[Any]],
    one_more: NewMigration,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Building an index live waits for every older transaction: for whoever waits for its lock too."""
    one_more(
        "with without_transaction() as driver:\n"
        "    build_indexes(driver, 'CREATE INDEX CONCURRENTLY one_more ON relais.jobs (worker)')"
    )
    holder, watcher = server(), server()
    holder.execute("BEGIN")
    holder.execute("LOCK TABLE relais.jobs IN ROW EXCLUSIVE MODE")
    first = Migrating(database_url)
    block_until(lambda: waits_for_a_lock(watcher))
    second = Migrating(database_url)
    block_until(lambda: "Another migration is running" in capsys.readouterr().err)
    block_until(
        lambda: watcher.execute(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'relais migrate'"
            " AND datname = current_database() AND (wait_event = 'advisory' OR state = 'idle')"
        ).fetchone()
    )
    holder.execute("COMMIT")
    first.end()
    second.end()
    assert index_is_valid(watcher, "one_more")


def test_a_foreign_session_with_the_lock_of_migrations_is_named_and_waited_for_in_vain(
    database_url: str,
    server: Callable[[], psycopg.Connection[Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(migrate, "LOCK_PATIENCE_S", 0.5)
    monkeypatch.setenv("RELAIS_DATABASE_URL", database_url)
    stranger = server()
    stranger.execute("SET application_name = 'somebody else'")
    stranger.execute("SELECT pg_advisory_lock(%s)", (migrate._LOCK_KEY,))
    holder = f"somebody else (pid {stranger.info.backend_pid} of Postgres, role "
    with pytest.raises(LedgerUnavailable, match=r"within 0\.5 s: the advisory lock") as raised:
        migrate.migrate(database_url, "pre")
    assert f"is held by {holder}" in raised.value.sentence
    assert "pg_terminate_backend" in raised.value.remedy
    assert f"waits for it: {holder}" in capsys.readouterr().err
    stranger.execute("SELECT pg_advisory_unlock_all()")
    migrate.migrate(database_url, "pre")


def index_is_valid(connection: psycopg.Connection[Any], name: str) -> bool | None:
    row = connection.execute(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (f"relais.{name}",)
    ).fetchone()
    return row[0] if row else None


BUILD = "-- By worker.\nCREATE INDEX CONCURRENTLY ix_test ON relais.jobs (worker);\n"


def test_an_index_that_was_left_half_built_is_built_anew(
    server: Callable[[], psycopg.Connection[Any]],
) -> None:
    driver, holder = server(), server()
    holder.execute("BEGIN")
    holder.execute("LOCK TABLE relais.jobs IN ROW EXCLUSIVE MODE")
    driver.execute("SET lock_timeout = 200")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        driver.execute("CREATE INDEX CONCURRENTLY ix_test ON relais.jobs (worker)")
    assert index_is_valid(driver, "ix_test") is False
    holder.execute("COMMIT")
    steps.build_indexes(driver, BUILD)
    assert index_is_valid(driver, "ix_test") is True
    steps.build_indexes(driver, BUILD)
    steps.drop_indexes(driver, "ix_test", "ix_test")
    assert index_is_valid(driver, "ix_test") is None


async def test_building_an_index_waits_for_open_transactions_and_keeps_nobody_from_writing(
    server: Callable[[], psycopg.Connection[Any]],
) -> None:
    driver, holder, writer = server(), server(), server()
    driver.execute(f"SET lock_timeout = {steps.LOCK_TIMEOUT_MS}")
    holder.execute("BEGIN")
    holder.execute("LOCK TABLE relais.jobs IN ROW EXCLUSIVE MODE")
    building = asyncio.create_task(asyncio.to_thread(steps.build_indexes, driver, BUILD))
    began_at = time.monotonic()
    while time.monotonic() - began_at < steps.LOCK_TIMEOUT_MS / 1000 + 1:
        with within(1):
            writer.execute("DELETE FROM relais.jobs")
        await asyncio.sleep(0.05)
    assert not building.done(), "it is not given up for somebody's long transaction"
    holder.execute("COMMIT")
    await building
    assert index_is_valid(writer, "ix_test") is True
    assert driver.execute("SHOW lock_timeout").fetchone() == ("2s",)


FILL = "INSERT INTO things SELECT gen_random_uuid(), 0 FROM generate_series(1, 1000)"
RAISE = """
WITH slice AS (SELECT id FROM things WHERE id > %(after)s ORDER BY id LIMIT %(limit)s),
raised AS (UPDATE things SET value = value + 1 FROM slice WHERE things.id = slice.id)
SELECT id FROM slice ORDER BY id DESC LIMIT 1
"""


def test_slices_reach_every_row_once_each_in_a_transaction_of_its_own(
    server: Callable[[], psycopg.Connection[Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "TELL_EVERY_S", 0.0)
    driver = server()
    driver.execute("CREATE TABLE things (id uuid PRIMARY KEY, value int)")
    driver.execute(FILL)
    steps.in_slices(driver, "things", RAISE, limit=300)
    assert driver.execute("SELECT min(value), max(value) FROM things").fetchone() == (1, 1)
    assert driver.execute("SELECT count(DISTINCT xmin::text) FROM things").fetchone() == (4,)
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" in ")[0].strip() for line in told] == [
        f"things: about {count:,} looked at" for count in (300, 600, 900, 1200)
    ]


async def test_a_slice_whose_row_is_locked_is_tried_again_and_the_others_stand(
    server: Callable[[], psycopg.Connection[Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "LOCK_TIMEOUT_MS", 200)
    driver, holder = server(), server()
    driver.execute("CREATE TABLE things (id uuid PRIMARY KEY, value int)")
    driver.execute(FILL)
    holder.execute("BEGIN")
    holder.execute("SELECT FROM things ORDER BY id DESC LIMIT 1 FOR UPDATE")
    slicing = asyncio.create_task(
        asyncio.to_thread(steps.in_slices, driver, "things", RAISE, limit=100)
    )
    told = ""
    while "waiting for a lock" not in told:
        told += capsys.readouterr().err
        await asyncio.sleep(0.02)
        assert not slicing.done()
    assert holder.execute("SELECT count(*) FROM things WHERE value = 1").fetchone() == (900,)
    holder.execute("COMMIT")
    await slicing
    assert driver.execute("SELECT min(value), max(value) FROM things").fetchone() == (1, 1)
