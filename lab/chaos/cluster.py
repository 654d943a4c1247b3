"""A private stack with a proxy before every service, and recorders that nothing can hurt."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg

from lab.chaos import audit_trigger, configuration, patterns
from lab.chaos.launcher import Launched, Launcher
from lab.chaos.proxy import Proxy
from lab.chaos.waiting import READY_WITHIN_S, until
from ledger import api_keys, migrate
from ledger import database as ledger_database
from ops.errors import OpsError
from ops.stack import Postgres, Valkey, ports, records
from runtime.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parent.parent.parent
QUEUES = ("critical", "template", "bulk", "callback")
TENANTS = ("default", "flood")
ASK_AGAIN_S = 0.2
DISK_BYTES = 512 * 1024 * 1024
POSTGRES = {
    "max_connections": "300",
    "max_wal_size": "'96MB'",
    "min_wal_size": "'32MB'",
    "restart_after_crash": "on",
}


class Cluster:
    """Services, proxies, recorders and processes of one run."""

    def __init__(self, folder: Path, history: Path) -> None:
        self.folder = folder
        self.history = history
        self.disk = folder / "disk"
        self.has_small_disk = False
        self.launcher = Launcher()
        self.gateways: list[str] = []
        self.keys: dict[str, str] = {}  # by tenant
        self.smtp_control = self.callback_control = 0
        self.callback_secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self._recorders: list[subprocess.Popen[bytes]] = []
        self._mark = records.mark(folder)

    @property
    def callback_base(self) -> str:
        """Where callbacks go: the recorder behind its proxy."""
        return f"http://127.0.0.1:{self.callback_proxy.port}/cb"

    @property
    def second_callback_base(self) -> str:
        """The same recorder under the name of another host, behind a proxy of its own."""
        return f"http://{configuration.SECOND_HOST}:{self.second_callback_proxy.port}/cb"

    async def start(self, *, gateways: int, workers: int, beats: int) -> None:
        """Bring everything up and wait until it is ready."""
        self._mount()
        await asyncio.gather(asyncio.to_thread(self._start_services), self._start_recorders())
        await self._start_proxies()
        for number in range(gateways):
            port = ports.free()
            self.gateways.append(f"http://127.0.0.1:{port}")
            self._add(f"gateway-{number}", "gateway", gateway_port=port)
        for queue in QUEUES:
            for number in range(workers):
                self._add(f"worker-{queue}-{number}", "workers", queue)
        for number in range(beats):
            self._add(f"beat-{number}", "workers.beat")
        wanted = workers * len(QUEUES) + beats
        if not wanted:
            return
        await until(lambda: self._are_there(wanted), what="the processes under test")
        for url in self.gateways:
            await until(partial(_answers, url), what=url)
        self.launcher.watch()

    async def stop(self) -> None:
        """End every process and remove what they wrote; the history stays."""
        await self.launcher.stop()
        for proxy in self.proxies:
            await proxy.stop()
        for recorder in self._recorders:
            recorder.kill()
            recorder.wait()
        await asyncio.to_thread(self._stop_services)

    def _mount(self) -> None:
        """A small disk of its own for Postgres, where this account may make one."""
        self.disk.mkdir(mode=0o711)
        if os.geteuid() != 0 or shutil.which("mount") is None:
            return
        size = f"size={DISK_BYTES},mode=0711"
        command = ["mount", "-t", "tmpfs", "-o", size, "relais-chaos", str(self.disk)]
        self.has_small_disk = (
            subprocess.run(command, check=False, capture_output=True).returncode == 0
        )

    def _start_services(self) -> None:
        programs = self.folder / "programs"
        programs.mkdir(mode=0o711)
        self.postgres = Postgres(
            self.disk / "postgres", programs_dir=programs, config=POSTGRES
        ).start()
        config = {"enable-debug-command": "local"}
        self.valkey = Valkey(self.folder / "valkey", config=config).start()
        for phase in ("pre", "post"):
            migrate.migrate(self.postgres.url, phase)
        with psycopg.connect(self.postgres.superuser_url, autocommit=True) as connection:
            connection.execute(audit_trigger.SQL)
        self.keys = asyncio.run(self._make_keys())

    def _stop_services(self) -> None:
        for service in ("postgres", "valkey"):
            if hasattr(self, service):
                getattr(self, service).stop("immediate")
        records.clear_strays(self._mark)
        if self.has_small_disk:
            command = ["umount", "-l", str(self.disk)]
            subprocess.run(command, check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _make_keys(self) -> dict[str, str]:
        url = {"database_url": self.postgres.url}
        engine = ledger_database.engine(Settings.model_validate(url))
        made: dict[str, str] = {}
        async with engine.begin() as connection:
            for tenant in TENANTS:
                key = await api_keys.create(
                    connection, tenant=tenant, name="chaos", role="admin", rate_per_s=1e6
                )
                made[tenant] = key.key
        await engine.dispose()
        return made

    async def _start_recorders(self) -> None:
        told: list[dict[str, int]] = []
        for name in ("smtp", "callbacks"):
            ports_file = self.folder / f"{name}.ports"
            journal = self.history / f"{name}.jsonl"
            program = f"lab.chaos.recorders.{name}"
            words = [sys.executable, "-m", program, str(journal), str(ports_file)]
            with (self.history / f"recorder-{name}.log").open("wb") as log:
                recorder = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                    words,
                    cwd=ROOT,
                    env=self.environment(),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._recorders.append(recorder)
            await until(ports_file.exists, what=f"the {name} recorder")
            told.append(json.loads(ports_file.read_text()))
        self._smtp_port, self.smtp_control = told[0]["port"], told[0]["control"]
        self._callback_port, self.callback_control = told[1]["port"], told[1]["control"]

    async def _start_proxies(self) -> None:
        self.postgres_proxy = Proxy(self.postgres.port, forgets=patterns.OVER)
        self.redis_proxy = Proxy(self.valkey.port)
        self.smtp_proxy = Proxy(self._smtp_port)
        self.callback_proxy = Proxy(self._callback_port)
        self.second_smtp_proxy = Proxy(self._smtp_port)
        self.second_callback_proxy = Proxy(self._callback_port, host=configuration.SECOND_HOST)
        for proxy in self.proxies:
            await proxy.start()

    @property
    def proxies(self) -> list[Proxy]:
        """All of them, as far as they were started."""
        first = ("postgres_proxy", "redis_proxy", "smtp_proxy", "callback_proxy")
        names = (*first, "second_smtp_proxy", "second_callback_proxy")
        return [getattr(self, name) for name in names if hasattr(self, name)]

    def environment(self) -> dict[str, str]:
        """What every process gets, before its settings."""
        others = {k: v for k, v in os.environ.items() if not k.startswith(("RELAIS_", "OTEL_"))}
        ours = {"PYTHONPATH": str(ROOT), configuration.HISTORY_VARIABLE: str(self.history)}
        return {**others, **ours, records.MARK: self._mark}

    def _add(self, name: str, *words: str, **settings: object) -> None:
        relais = configuration.of(self) | {k.upper(): str(v) for k, v in settings.items()}
        env = self.environment() | {f"RELAIS_{key}": value for key, value in relais.items()}
        command = (sys.executable, "-m", *words)
        self.launcher.add(Launched(name, command, env, self.history / f"{name}.log"))

    async def _are_there(self, wanted: int) -> bool:
        for launched in self.launcher.processes.values():
            if not launched.pid:
                message = f"{launched.name} did not start."
                raise OpsError(message, remedy=f"See {launched.log}.")
        rows = await self.query("SELECT count(*) AS n FROM relais.workers")
        return bool(rows[0]["n"] >= wanted)

    async def query(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """Rows of the ledger, past the proxy; waits while another fault keeps Postgres from it."""

        def ask() -> list[dict[str, Any]]:
            with psycopg.connect(
                self.postgres.superuser_url,
                autocommit=True,
                connect_timeout=3,
                row_factory=psycopg.rows.dict_row,
            ) as connection:
                cursor = connection.execute(statement.encode(), parameters or None)
                return cursor.fetchall() if cursor.description else []

        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                return await asyncio.to_thread(ask)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(ASK_AGAIN_S)


@asynccontextmanager
async def cluster(
    history: Path, *, gateways: int = 2, workers: int = 2, beats: int = 2
) -> AsyncIterator[Cluster]:
    """A cluster that is ready; taken away at the end, whatever happened."""
    folder = Path(tempfile.mkdtemp(prefix="relais-chaos-"))
    folder.chmod(0o711)  # noqa: ASYNC240 - returns at once
    made = Cluster(folder, history)
    try:
        await made.start(gateways=gateways, workers=workers, beats=beats)
        yield made
    finally:
        await asyncio.shield(asyncio.ensure_future(made.stop()))


async def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        async with httpx.AsyncClient(timeout=2) as client:
            return (await client.get(f"{url}/health/ready")).status_code == 200
    return False
