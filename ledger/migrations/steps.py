"""Building blocks of migrations alongside running code: brief locks, indexes built live, slices.

Every step may run again: a migration that is interrupted goes on where it stopped.
"""

from __future__ import annotations

import random
import re
import sys
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from alembic import op
from psycopg import OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection

Value = TypeVar("Value")

LOCK_TIMEOUT_MS = 2_000  # others queue behind us for this long at most
LOCK_PATIENCE_S = 300.0
LOCKED = frozenset({"55P03", "40P01"})  # lock timeout; deadlock
TELL_EVERY_S = 2.0
FIRST = UUID(int=0)
OLDEST = """
SELECT pid, application_name, extract(epoch FROM statement_timestamp() - xact_start)::int
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
ORDER BY xact_start LIMIT 1
"""
_NAME = re.compile(r"INDEX CONCURRENTLY (\w+)")


@contextmanager
def without_transaction() -> Iterator[Connection[Any]]:
    """The driver's connection for statements that commit by themselves; inside `upgrade` only.

    What the migration did before is committed first.
    """
    with op.get_context().autocommit_block():
        bind: Any = op.get_bind()
        yield bind.connection.driver_connection


def briefly(driver: Connection[Any], statements: str) -> None:
    """Run `statements` in one transaction that gives up if a lock takes long, and retries."""

    def attempt() -> None:
        with driver.transaction():
            driver.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            driver.execute(statements)

    _patiently(driver, attempt)


def build_indexes(driver: Connection[Any], statements: str) -> None:
    """Build each index of `statements` while others write; rebuild one that was left half-built."""
    for statement in statements.split(";"):
        if _NAME.search(statement):
            _patiently(driver, partial(_build_index, driver, statement))


def drop_indexes(driver: Connection[Any], *names: str) -> None:
    """Drop indexes while others write."""
    for name in names:
        drop = f"DROP INDEX CONCURRENTLY IF EXISTS relais.{name}"
        _patiently(driver, partial(_unhurried, driver, drop))


def in_slices(
    driver: Connection[Any], what: str, statement: str, *, limit: int, lock: str = ""
) -> None:
    """Repeat `statement` until done, one transaction each; reports progress on stderr.

    It takes `%(after)s` and `%(limit)s`, and gives the last id of its slice, nothing at the end.
    `lock` takes the same and comes before it, to wait for rows that others change: a statement that
    waits for several and then joins finds only the first of them again.
    """
    began_at = told_at = time.monotonic()
    after, slices = FIRST, 0

    def attempt() -> UUID | None:
        with driver.transaction():
            driver.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            given = {"after": after, "limit": limit}
            if lock:
                driver.execute(lock, given)
            row = driver.execute(statement, given).fetchone()
        return row[0] if row else None

    while (last := _patiently(driver, attempt)) is not None:
        after, slices = last, slices + 1
        now = time.monotonic()
        if now - told_at > TELL_EVERY_S:
            told_at = now
            _tell(f"{what}: about {slices * limit:,} looked at in {now - began_at:.0f} s")


def let_others_go_on(driver: Connection[Any]) -> None:
    """After a lock timeout: names the oldest transaction, then waits a moment."""
    row = driver.execute(OLDEST).fetchone()
    if row is not None:
        pid, name, age_s = row
        _tell(f"waiting for a lock; the oldest transaction is {age_s} s old (pid {pid}, {name!r})")
    if not driver.autocommit:
        driver.rollback()
    time.sleep(random.uniform(0.2, 1.0))  # noqa: S311 - who queued behind us goes on


def _patiently(driver: Connection[Any], attempt: Callable[[], Value]) -> Value:
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            return attempt()
        except OperationalError as error:
            if error.sqlstate not in LOCKED or time.monotonic() > deadline:
                raise
            let_others_go_on(driver)


def _build_index(driver: Connection[Any], statement: str) -> None:
    name = _NAME.findall(statement)[0]
    row = driver.execute(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (f"relais.{name}",)
    ).fetchone()
    if row is not None and row[0]:
        return
    if row is not None:
        _unhurried(driver, f"DROP INDEX CONCURRENTLY relais.{name}")
    _unhurried(driver, statement)


def _unhurried(driver: Connection[Any], statement: str) -> None:
    """Let it wait for open transactions; no readers or writers queue behind it."""
    driver.execute("SELECT set_config('lock_timeout', '0', false)")
    try:
        driver.execute(statement)
    finally:
        driver.execute(f"SELECT set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', false)")


def _tell(sentence: str) -> None:
    print(f"  {sentence}", file=sys.stderr, flush=True)
