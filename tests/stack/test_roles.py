"""The embedded servers: from the database nobody comes to the machine, nor to root."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from ledger import migrate, partitions
from ledger.database import engine as ledger_engine
from ops.stack import Postgres, Valkey, account, postgres, programs
from runtime.settings import Settings
from tests.waiting import block_until

# What a superuser may do, and with it whoever has the database's URL.
ESCAPES = {
    "a program": "COPY (SELECT 1) TO PROGRAM 'true'",
    "a program's output": "COPY relais.queues FROM PROGRAM 'id'",
    "a file written": "COPY (SELECT 1) TO '/tmp/relais-escape'",
    "a file read": "SELECT pg_read_file('postgresql.auto.conf')",
    "a folder listed": "SELECT pg_ls_dir('.')",
    "a large object written out": "SELECT lo_export(lo_create(0), '/tmp/relais-escape')",
    "a large object read in": "SELECT lo_import('/etc/passwd')",
    "an untrusted language": "CREATE EXTENSION plpython3u",
    "a C function": "CREATE FUNCTION f() RETURNS int AS 'libc.so.6', 'getpid' LANGUAGE c",
    "files as tables": "CREATE EXTENSION file_fdw",
    "the server's settings": "ALTER SYSTEM SET archive_command = 'true'",
    "a reload": "SELECT pg_reload_conf()",
    "another role": "CREATE ROLE other SUPERUSER LOGIN",
    "another database": "CREATE DATABASE other",
    "itself": "ALTER ROLE relais SUPERUSER",
    "the superuser's place": "SET ROLE postgres",
    "the server's programs": "GRANT pg_execute_server_program TO relais",
    "another schema": "CREATE SCHEMA other",
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="relais-roles-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Postgres]:
    """As the stack has it: nobody logs in as superuser."""
    running = Postgres(folder / "new", programs_dir=folder / "programs", superuser_password="")
    with running:
        migrate.migrate(running.url, "pre")
        yield running


@pytest.mark.parametrize("statement", ESCAPES.values(), ids=ESCAPES)
def test_the_applications_role_cannot_leave_its_schema(server: Postgres, statement: str) -> None:
    refusals = (errors.InsufficientPrivilege, errors.FeatureNotSupported)
    with (
        psycopg.connect(server.url, autocommit=True) as connection,
        pytest.raises(refusals) as caught,
    ):
        connection.execute(statement.encode())
    # An extension that is not there is refused before the right to it is asked for.
    assert not isinstance(caught.value, errors.FeatureNotSupported) or "EXTENSION" in statement


def test_nobody_logs_in_as_superuser(server: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.url.replace(f"{postgres.USER}:", f"{postgres.SUPERUSER}:", 1))


async def test_the_days_of_the_history_are_made_and_dropped_by_the_application(
    server: Postgres,
) -> None:
    engine = ledger_engine(Settings.model_validate({"database_url": server.url}))
    async with engine.begin() as connection:
        made = await partitions.make_ahead(connection, days=30)
        assert len(made) > 20
        assert await partitions.drop_old(connection, events_s=-90 * 86_400) != []
    await engine.dispose()


def _cluster_of_before(folder: Path, bin_dir: Path, password: str) -> None:
    """One role for everything, `relais`, with the server's files inside the cluster."""
    folder.mkdir()
    room = account.make_folder(folder / "room")
    secret = room / "password"
    secret.write_text(password)
    secret.chmod(0o644)
    initdb: list[str | Path] = [
        bin_dir / "initdb",
        "-D",
        room / "cluster",
        "-U",
        "relais",
        "--pwfile",
        secret,
    ]
    create: list[str | Path] = [
        bin_dir / "postgres",
        "--single",
        "-D",
        room / "cluster",
        "postgres",
    ]
    for words, text in (
        ([*initdb, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"], ""),
        (create, "CREATE DATABASE relais;\n"),
    ):
        uid = account.for_servers()
        env = {**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": str(bin_dir.parent / "lib")}
        subprocess.run(
            words,
            input=text,
            text=True,
            user=uid,
            group=uid,
            env=env,
            cwd="/",
            check=True,
            capture_output=True,
        )
    (room / "cluster").rename(folder / "cluster")


def test_a_folder_of_before_is_upgraded_in_place(folder: Path, server: Postgres) -> None:
    old = folder / "old"
    _cluster_of_before(old, programs.postgres(folder / "programs"), "as before")
    before = Postgres(old, password="as before", programs_dir=folder / "programs")
    _run_as_before(before, folder)
    with Postgres(
        old, password="as before", programs_dir=folder / "programs", superuser_password=""
    ) as upgraded:
        with psycopg.connect(upgraded.url) as connection:
            assert (
                _one(connection, "SELECT rolsuper FROM pg_roles WHERE rolname = 'relais'") is False
            )
            assert _one(connection, "SELECT count(*) FROM mine") == 1
            connection.execute("ALTER TABLE relais.jobs ADD COLUMN of_later int")
            connection.execute("DROP TABLE mine")
            left = """
                SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
                WHERE relowner = 10 AND nspname = 'relais'
            """
            assert _one(connection, left) == 0
        migrate.migrate(upgraded.url, "post")
        with (
            psycopg.connect(upgraded.url) as connection,
            pytest.raises(errors.InsufficientPrivilege),
        ):
            connection.execute("COPY (SELECT 1) TO PROGRAM 'true'")
        old_superuser = upgraded.url.replace("relais:", "postgres:", 1)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(old_superuser)


def _run_as_before(before: Postgres, folder: Path) -> None:
    """Start it as the earlier version did, and fill it."""
    uid = account.for_servers()
    bin_dir = programs.postgres(folder / "programs")
    env = {**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": str(bin_dir.parent / "lib")}
    words: list[str | Path] = [
        bin_dir / "postgres",
        "-D",
        before.cluster,
        "-p",
        str(before.port),
        "-k",
        "",
    ]
    with (folder / "before.log").open("ab") as log:
        process = subprocess.Popen(
            words, user=uid, group=uid, env=env, cwd="/", stdout=log, stderr=log
        )
    try:
        block_until(before.ping)
        migrate.migrate(before.url, "pre")
        with psycopg.connect(before.url) as connection:
            connection.execute("CREATE TABLE public.mine AS SELECT 1 AS one")
    finally:
        process.terminate()
        process.wait(timeout=30)


def _one(connection: psycopg.Connection[Any], statement: str) -> object:
    row = connection.execute(statement.encode()).fetchone()
    return row[0] if row else None


def test_no_file_of_a_server_is_written_through_a_link(folder: Path) -> None:
    """Also not where an earlier version had it, in a folder that the server may write."""
    victim = folder / "victim"
    victim.write_text("root's own")
    running = Postgres(folder / "linked", programs_dir=folder / "programs")
    running.prepare()
    valkey = Valkey(folder / "valkey")
    valkey.prepare()
    names = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf", "postmaster.pid")
    paths = [running.folder / name for name in (*names[:3], "roles.sha256")]
    paths += [running.cluster / name for name in names]
    paths += [valkey.folder / "valkey.conf", valkey.folder / "room" / "valkey.conf"]
    for path in paths:
        path.unlink(missing_ok=True)
        path.symlink_to(victim)
    running.prepare()
    valkey.prepare()
    assert victim.read_text() == "root's own"
    assert victim.stat().st_uid == os.geteuid()
    with running, valkey:
        assert running.ping()
        assert valkey.ping()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account for servers")
def test_servers_can_write_none_of_the_files_that_are_written_for_them(server: Postgres) -> None:
    assert server.folder.stat().st_uid == 0
    for path in server.folder.glob("*.conf"):
        assert path.stat().st_uid == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with Valkey(server.folder / "valkey") as valkey:
        path = valkey.folder / "valkey.conf"
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (0, 0o640)
        assert path.parent.stat().st_uid == 0
