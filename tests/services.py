"""The embedded services of one test run, started when a test first asks for one of them.

Whichever of the run's processes asks first starts the service, under a lock; the others read
where it is. The controlling process stops what was started when the run ends. Every test gets a
database of its own, cloned from a migrated template.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg

from ledger import migrate
from ops.stack import Postgres, Valkey, locks
from ops.stack.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER_VARIABLE = "RELAIS_TEST_SERVICES"  # tells the processes of one run of each other
TEMPLATE = "relais_template"
END_S = 30.0
# Of those that this process started: a server's Popen must not be collected while it runs.
_started: list[Postgres | Valkey] = []


def prepare() -> Path:
    """Make the folder that the processes of this run share; starts nothing."""
    folder = Path(tempfile.mkdtemp(prefix="relais-tests-"))
    folder.chmod(0o711)
    os.environ[FOLDER_VARIABLE] = str(folder)
    return folder


def stop(folder: Path) -> None:
    """Stop what any process of this run started, and remove what it wrote."""
    for name, how in (("postgres", signal.SIGQUIT), ("valkey", signal.SIGTERM)):
        record = folder / f"{name}.json"
        if record.exists():
            server = Identity(**json.loads(record.read_text())["process"])
            server.send(how)
            assert server.wait(END_S), f"{name} (pid {server.pid}) does not end"
    for started in _started:  # reaps those of this process
        started.stop("immediate")
    shutil.rmtree(folder, ignore_errors=True)


@cache
def postgres_url() -> str:
    """The superuser's URL of the run's Postgres."""
    return _shared("postgres", _start_postgres)


@cache
def redis_url(database: int = 0) -> str:
    """A database of the run's Valkey; number 0 is shared, the others are for who says so."""
    return f"{_shared('valkey', _start_valkey).rpartition('/')[0]}/{database}"


@contextmanager
def fresh_database(template: str = TEMPLATE) -> Iterator[str]:
    """The URL of a new database, migrated; dropped at the end, whoever is still connected."""
    server = postgres_url()
    name = f"t_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    try:
        yield with_database(server, name)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def with_database(url: str, name: str) -> str:
    """`url` with another database in it."""
    return f"{url.rpartition('/')[0]}/{name}"


def _shared(name: str, start: Callable[[Path], tuple[str, int | None]]) -> str:
    """The URL of the run's service `name`, started now if nobody has asked for it before."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    record = folder / f"{name}.json"
    with locks.waiting_for(folder / f"{name}.lock"):
        if not record.exists():
            url, pid = start(folder / name)
            assert pid is not None
            server = Identity.of(pid)
            assert server is not None
            process = {"pid": server.pid, "started": server.started}
            record.write_text(json.dumps({"url": url, "process": process}))
    url = json.loads(record.read_text())["url"]
    assert isinstance(url, str)
    return url


def _start_postgres(folder: Path) -> tuple[str, int | None]:
    postgres = Postgres(folder, config={"max_connections": "400"})
    postgres.start()
    _started.append(postgres)
    try:
        with psycopg.connect(postgres.superuser_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate.migrate(with_database(postgres.superuser_url, TEMPLATE), "pre")
        migrate.migrate(with_database(postgres.superuser_url, TEMPLATE), "post")
    except BaseException:
        postgres.stop("immediate")
        raise
    return postgres.superuser_url, postgres.pid


def _start_valkey(folder: Path) -> tuple[str, int | None]:
    valkey = Valkey(folder, config={"databases": "64"})
    _started.append(valkey.start())
    return valkey.url, valkey.pid
