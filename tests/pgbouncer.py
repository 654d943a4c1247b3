"""A real PgBouncer before the test's Postgres; skipped, loudly, where the program is missing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import pytest

from ops.stack import account, ports
from tests.waiting import block_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PoolMode = Literal["session", "transaction"]
SETTINGS = """
[databases]
* = host={host} port={port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = {mode}
default_pool_size = {pool_size}
max_client_conn = 200
logfile = {log}
"""


def program() -> str:
    """PgBouncer's path; skips the test where there is none."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        pytest.skip("NOT TESTED: there is no PgBouncer here; install the package `pgbouncer`")
    return found


@contextmanager
def pgbouncer(url: str, *, mode: PoolMode, pool_size: int = 60) -> Iterator[str]:
    """`url` through a PgBouncer of its own."""
    words = [program()]
    parts = urlsplit(url)
    home = Path(tempfile.mkdtemp(prefix="relais-pgbouncer-"))
    account.make_folder(home)
    listen_port = ports.free()
    files = {
        "users.txt": f'"{parts.username}" "{parts.password}"\n',
        "pgbouncer.ini": SETTINGS.format(
            host=parts.hostname,
            port=parts.port,
            listen_port=listen_port,
            users=home / "users.txt",
            mode=mode,
            pool_size=pool_size,
            log=home / "pgbouncer.log",
        ),
    }
    for name, content in files.items():
        account.write_for_servers(home / name, content)
    uid = account.for_servers()
    process = subprocess.Popen(
        [*words, "-q", str(home / "pgbouncer.ini")],
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    through = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{listen_port}")
    try:
        block_until(lambda: process.poll() is not None or _listens(listen_port))
        assert process.poll() is None, (home / "pgbouncer.log").read_text()
        yield through.geturl()
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(home, ignore_errors=True)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
