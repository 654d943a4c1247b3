"""Named SQL: files of statements under `-- name: NAME` headings, each with its one-line comment."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import TextClause, text
from sqlalchemy.dialects.postgresql.psycopg import dialect

from ledger.errors import LedgerError

_HEADING = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(path: Path) -> dict[str, TextClause]:
    """The statements of `path` by name."""
    parts = _HEADING.split(path.read_text(encoding="utf-8"))[1:]
    names, bodies = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        message = f"{path.name} names a statement twice."
        raise LedgerError(message)
    return {name: text(body.strip()) for name, body in zip(names, bodies, strict=True)}


def for_psycopg(statement: TextClause) -> str:
    """`statement` as SQLAlchemy hands it to the driver, for connections that it has no part in."""
    return str(statement.compile(dialect=dialect()))  # type: ignore[no-untyped-call]


TRANSITIONS = load(Path(__file__).with_name("transitions.sql")) | load(
    Path(__file__).with_name("consequences.sql")
)
