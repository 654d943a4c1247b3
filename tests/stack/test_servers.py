"""The embedded Postgres and Valkey by themselves."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from ops.errors import PortInUseError, StackError
from ops.stack import Postgres, Valkey


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="relais servers "))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_postgres_keeps_what_was_committed_when_it_is_stopped_at_once(folder: Path) -> None:
    with Postgres(folder / "postgres") as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        server.stop("immediate")
        assert not server.ping()
        server.start()
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)
            # Case rules beyond ASCII, without the machine's locales.
            assert connection.execute("SELECT lower('ÄÉŒ')").fetchone() == ("äéœ",)
            for name in ("fsync", "synchronous_commit", "full_page_writes"):
                assert connection.execute(f"SHOW {name}").fetchone() == ("on",)


def test_postgres_wants_its_password_and_listens_on_loopback_only(folder: Path) -> None:
    with Postgres(folder / "postgres") as server:
        wrong = server.url.replace(server.password, "wrong")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
        with psycopg.connect(server.superuser_url) as connection:
            shown = connection.execute("SHOW listen_addresses").fetchone()
            assert shown == ("127.0.0.1",)
            assert connection.execute("SHOW unix_socket_directories").fetchone() == ("",)


def test_a_lock_file_whose_number_was_given_to_another_process_does_not_stop_the_start(
    folder: Path,
) -> None:
    server = Postgres(folder / "postgres")
    server.prepare()
    lock = server.cluster / "postmaster.pid"
    lock.write_text(f"{os.getppid()}\n{server.cluster}\n")
    with server:
        assert server.ping()


def test_a_port_in_use_is_named_together_with_the_program(folder: Path) -> None:
    with Valkey(folder / "one") as first:
        second = Postgres(folder / "two", first.port)
        with pytest.raises(
            PortInUseError, match=rf"Port {first.port}.*valkey-server \(pid {first.pid}\)"
        ):
            second.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes accounts")
def test_root_is_told_where_the_servers_account_may_not_go(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(StackError, match=r"may not enter .*closed") as caught:
        Postgres(closed / "postgres").start()
    assert "--data-dir" in caught.value.remedy


def test_valkey_wants_its_password_and_keeps_it_out_of_sight(folder: Path) -> None:
    with Valkey(folder / "valkey") as server:
        assert server.ping()
        client = redis.Redis.from_url(server.url)
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        client.close()
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=server.port).get("x")
        words = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert server.password.encode() not in words
        settings = folder / "valkey" / "valkey.conf"
        assert not stat.S_IMODE(settings.stat().st_mode) & 0o007


def test_valkey_comes_back_empty_after_a_kill(folder: Path) -> None:
    with Valkey(folder / "valkey") as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("doorbell", 1)
        server.stop("immediate")
        assert not server.ping()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("doorbell") is None


def test_a_cluster_takes_a_new_password_at_its_next_start(folder: Path) -> None:
    with Postgres(folder / "postgres", password="old"):
        pass
    with Postgres(folder / "postgres", password="it's new") as server:
        port = server.port
        assert server.ping()
        old = f"postgresql://relais:old@127.0.0.1:{port}/relais"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(old)
