"""A private cluster for one benchmark: Postgres, Redis, and the processes under test."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import psycopg

from ledger import api_keys, migrate
from ledger import database as ledger_database
from ops.errors import OpsError
from ops.stack import Postgres, Valkey, ports
from runtime.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent.parent
END_S = 30.0


class Cluster:
    """Services of one benchmark run in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = Postgres(folder / "postgres")
        self.valkey = Valkey(folder / "valkey", config={"databases": "2"})
        self.gateway_port = ports.free()

    @property
    def peer_redis_url(self) -> str:
        """A Redis database for the peer alone."""
        return self.valkey.url[:-1] + "1"

    @property
    def settings(self) -> Settings:
        """Settings that point here."""
        return Settings.model_validate(
            {
                "database_url": self.postgres.url,
                "redis_url": self.valkey.url,
                "data_dir": self.folder,
            }
        )

    def make_key(self, *, tenant: str = "default") -> str:
        """An API key of `tenant` without a rate limit that would matter."""

        async def make() -> str:
            engine = ledger_database.engine(self.settings)
            async with engine.begin() as connection:
                made = await api_keys.create(
                    connection, tenant=tenant, name="bench", role="admin", rate_per_s=1e6
                )
            await engine.dispose()
            return made.key

        return asyncio.run(make())

    def empty_ledger(self) -> None:
        """No jobs, no history; keys stay."""
        with psycopg.connect(self.postgres.superuser_url, autocommit=True) as connection:
            connection.execute("TRUNCATE relais.jobs, relais.job_events CASCADE")

    @contextmanager
    def process(self, *words: str, **overrides: object) -> Iterator[subprocess.Popen[bytes]]:
        """`python -m WORDS`, with settings as `RELAIS_*`; ended with the block."""
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RELAIS_", "OTEL_"))},
            "PYTHONPATH": str(ROOT),
            "RELAIS_DATABASE_URL": self.postgres.url,
            "RELAIS_REDIS_URL": self.valkey.url,
            "RELAIS_DATA_DIR": str(self.folder),
            "RELAIS_GATEWAY_PORT": str(self.gateway_port),
            "RELAIS_KINDS": "lab.bench.kinds",
            "RELAIS_LOG_LEVEL": "WARNING",
            "RELAIS_BENCH_REDIS_URL": self.peer_redis_url,
            **{f"RELAIS_{name.upper()}": str(value) for name, value in overrides.items()},
        }
        log = self.folder / f"{words[0].replace('.', '-')}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=output,
            )
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(END_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    @contextmanager
    def gateway(self, *, processes: int = 1, **settings: object) -> Iterator[str]:
        """A gateway of so many processes; its base URL once it is live."""
        with self.process("gateway", gateway_processes=processes, **settings) as process:
            url = f"http://127.0.0.1:{self.gateway_port}"
            wait_until(lambda: _answers(f"{url}/health/live"), process=process, what="the gateway")
            yield url


@contextmanager
def cluster(*, is_migrated: bool = True) -> Iterator[Cluster]:
    """Start the services, migrate, and take everything away at the end."""
    folder = Path(tempfile.mkdtemp(prefix="relais-bench-"))
    folder.chmod(0o711)
    made = Cluster(folder)
    try:
        made.postgres.start()
        made.valkey.start()
        if is_migrated:
            migrate.migrate(made.postgres.url, "pre")
        yield made
    finally:
        made.postgres.stop("immediate")
        made.valkey.stop()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(
    condition: Callable[[], object],
    *,
    what: str,
    process: subprocess.Popen[bytes] | None = None,
    within_s: float = 60.0,
    every_s: float = 0.02,
) -> float:
    """Poll `condition` (a callable); the moment (monotonic) at which it was true."""
    deadline = time.monotonic() + within_s
    while not condition():
        if process is not None and process.poll() is not None:
            message = f"{what} ended with {process.returncode}."
            raise OpsError(message, remedy="Its log says why.")
        if time.monotonic() > deadline:
            message = f"{what} was not ready within {within_s:g} s."
            raise OpsError(message)
        time.sleep(every_s)
    return time.monotonic()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=1) as response:  # noqa: S310 - our own loopback address
            return bool(response.status == 200)
    except OSError:
        return False
