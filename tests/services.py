"""The embedded services of one test run, shared by all its processes.

The first pytest process that needs them starts them; they stop when the run that started them
ends. Every test gets a database of its own, cloned from a migrated template.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg

from ledger import migrate
from ops.stack import Postgres, Valkey

if TYPE_CHECKING:
    from collections.abc import Iterator

POSTGRES_VARIABLE = "RELAIS_TEST_POSTGRES"
REDIS_VARIABLE = "RELAIS_TEST_REDIS"
TEMPLATE = "relais_template"


@dataclass(slots=True)
class Services:
    """Started once per run by the controlling pytest process."""

    folder: Path
    postgres: Postgres
    valkey: Valkey

    def stop(self) -> None:
        """Stop both and remove what they wrote."""
        self.postgres.stop("immediate")
        self.valkey.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def start() -> Services:
    """Start both, migrate the template, and tell child processes where they are."""
    folder = Path(tempfile.mkdtemp(prefix="relais-tests-"))
    folder.chmod(0o711)
    postgres = Postgres(folder / "postgres", config={"max_connections": "400"})
    valkey = Valkey(folder / "valkey", config={"databases": "64"})
    postgres.start()
    try:
        valkey.start()
        with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate.migrate(_with_database(postgres.superuser_url, TEMPLATE), "pre")
        migrate.migrate(_with_database(postgres.superuser_url, TEMPLATE), "post")
    except BaseException:
        Services(folder, postgres, valkey).stop()
        raise
    os.environ[POSTGRES_VARIABLE] = postgres.superuser_url
    os.environ[REDIS_VARIABLE] = valkey.url
    return Services(folder, postgres, valkey)


@contextmanager
def fresh_database(template: str = TEMPLATE) -> Iterator[str]:
    """The URL of a new database, migrated; dropped at the end, whoever is still connected."""
    server = os.environ[POSTGRES_VARIABLE]
    name = f"t_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    try:
        yield _with_database(server, name)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _with_database(url: str, name: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{name}"
