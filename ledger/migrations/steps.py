"""What a migration beside running code is made of: brief locks, indexes built live, slices."""

from __future__ import annotations

import random
import re
import sys
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg import errors

if TYPE_CHECKING:
    from psycopg import Connection

LOCK_TIMEOUT_MS = 2_000  # for so long everybody else queues behind us, at most
LOCK_PATIENCE_S = 300.0
FIRST = UUID(int=0)
_NAME = re.compile(r"INDEX CONCURRENTLY (\w+)")


def briefly(driver: Connection[Any], statements: str) -> None:
    """Run `statements` in one transaction that gives up a lock it does not get soon, and again."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            with driver.transaction():
                driver.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
                driver.execute(statements)
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            if time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.2, 1.0))  # noqa: S311 - lets the others go on
        else:
            return


def build_indexes(driver: Connection[Any], statements: str) -> None:
    """Build each index of `statements` while others write; one that was left half-built anew."""
    for statement in statements.split(";"):
        found = _NAME.search(statement)
        if found is None:
            continue
        name = found.group(1)
        row = driver.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)",
            (f"relais.{name}",),
        ).fetchone()
        if row is not None and row[0]:
            continue
        if row is not None:
            driver.execute(f"DROP INDEX CONCURRENTLY relais.{name}")
        driver.execute(statement)


def drop_indexes(driver: Connection[Any], *names: str) -> None:
    """Drop indexes while others write."""
    for name in names:
        driver.execute(f"DROP INDEX CONCURRENTLY IF EXISTS relais.{name}")


def in_slices(driver: Connection[Any], what: str, statement: str, *, limit: int) -> None:
    """Repeat `statement` (:after, :limit; gives the last id) to the end, a transaction each."""
    after, slices, told_at = FIRST, 0, time.monotonic()
    while True:
        with driver.transaction():
            row = driver.execute(statement, {"after": after, "limit": limit}).fetchone()
        if row is None:
            break
        after, slices = row[0], slices + 1
        if time.monotonic() - told_at > 2:
            told_at = time.monotonic()
            print(f"  {what}: about {slices * limit:,} looked at", file=sys.stderr)
