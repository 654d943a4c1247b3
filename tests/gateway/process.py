"""A real gateway: `python -m gateway` on a free port, with a key for every role."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from ledger import api_keys, database
from runtime.settings import Settings
from tests import launcher
from tests.waiting import block_until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

KINDS = "tests.scripted_kind"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Gateway:
    """One process; `keys` by role, all of the tenant `default`."""

    settings: Settings
    extra: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.gateway_port}"

    @property
    def log(self) -> Path:
        return self.settings.data_dir / "gateway.log"

    def engine(self) -> AsyncEngine:
        return database.engine(self.settings, pool_size=4)

    def environment(self) -> dict[str, str]:
        told = {"RELAIS_GATEWAY_PORT": str(self.settings.gateway_port), "RELAIS_KINDS": KINDS}
        return launcher.environment(self.settings) | told | self.extra

    def start(self) -> None:
        self.process = launcher.start("gateway", env=self.environment(), log=self.log)
        block_until(self._is_live, within_s=20, what="the gateway comes up")

    def _is_live(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        self.process = None
        return code

    def client(self, role: str | None = "admin", **kwargs: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers(role), **kwargs)

    def async_client(self, role: str | None = "admin", **kwargs: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=self.headers(role), **kwargs)

    def headers(self, role: str | None) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[role]}"} if role else {}

    def make_key(self, role: str, *, tenant: str = "default", **kwargs: Any) -> str:
        async def make() -> str:
            engine = self.engine()
            async with engine.begin() as connection:
                made = await api_keys.create(
                    connection, tenant=tenant, name=f"test {role}", role=role, **kwargs
                )
            await engine.dispose()
            return made.key

        return asyncio.run(make())

    def make_keys(self) -> None:
        for role in api_keys.ROLES:
            self.keys[role] = self.make_key(role)


def settings_for(*, database_url: str, redis_url: str, data_dir: Path) -> Settings:
    return Settings.model_validate(
        {
            "database_url": database_url,
            "redis_url": redis_url,
            "data_dir": data_dir,
            "gateway_port": free_port(),
        }
    )
