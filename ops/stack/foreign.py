"""A database that the user runs, through psycopg: TLS, passwords' files and all."""

from __future__ import annotations

import psycopg

from ops.stack.wire import Row


def libpq_url(url: str) -> str:
    """`url` without SQLAlchemy's way to name a driver, which means nothing to libpq."""
    _, separator, rest = url.partition("://")
    return f"postgresql://{rest}" if separator else url


class Foreign:
    """One session; psycopg's errors become OSErrors."""

    def __init__(self, url: str, *, connect_timeout_s: float) -> None:
        """Connect and log in."""
        try:
            self._connection = psycopg.connect(
                libpq_url(url),
                autocommit=True,
                connect_timeout=int(connect_timeout_s),
                application_name="relais-stack",
                tcp_user_timeout=5000,
                prepare_threshold=None,
            )
        except psycopg.Error as error:
            raise ConnectionError(str(error)) from error

    def query(self, sql: str) -> list[Row]:
        """The rows, every value as text."""
        try:
            with self._connection.transaction():
                # For this transaction only: behind a pooler the next one may be somebody else's.
                self._connection.execute("SET LOCAL statement_timeout = 3000")
                rows = self._connection.execute(sql.encode()).fetchall()
        except psycopg.Error as error:
            raise ConnectionError(str(error)) from error
        return [tuple(None if value is None else str(value) for value in row) for row in rows]

    def close(self) -> None:
        """End it."""
        self._connection.close()
