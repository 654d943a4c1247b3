"""A real worker process, as the local stack starts it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Self

from tests import launcher

if TYPE_CHECKING:
    from runtime.settings import Settings


class WorkerProcess:
    """`python -m workers QUEUE` with the scripted test kinds; ended with the block."""

    def __init__(self, settings: Settings, queue: str = "template", **overrides: object) -> None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.log = settings.data_dir / f"worker-{queue}-{id(self)}.log"
        told = {
            "RELAIS_SMTP_URL": settings.smtp_url.get_secret_value(),
            "RELAIS_KINDS": "tests.scripted_kind",
            "RELAIS_POLL_S": "0.3",
            **{f"RELAIS_{name.upper()}": str(value) for name, value in overrides.items()},
        }
        env = launcher.environment(settings) | told
        self.process = launcher.start("workers", queue, env=env, log=self.log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        launcher.kill(self.process)

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        launcher.kill(self.process)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, *, timeout_s: float = 20.0) -> int:
        """Its exit code."""
        return self.process.wait(timeout_s)
