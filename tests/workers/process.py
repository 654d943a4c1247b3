"""A real worker process, as the local stack starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from runtime.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent


class WorkerProcess:
    """`python -m workers QUEUE` with the scripted test kinds; ended with the block."""

    def __init__(self, settings: Settings, queue: str = "template", **overrides: object) -> None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.log = settings.data_dir / f"worker-{queue}-{id(self)}.log"
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RELAIS_", "OTEL_"))},
            "PYTHONPATH": str(ROOT),
            "RELAIS_DATABASE_URL": settings.database_url.get_secret_value(),
            "RELAIS_REDIS_URL": settings.redis_url.get_secret_value(),
            "RELAIS_SMTP_URL": settings.smtp_url.get_secret_value(),
            "RELAIS_DATA_DIR": str(settings.data_dir),
            "RELAIS_KINDS": "tests.scripted_kind",
            "RELAIS_POLL_S": "0.3",
        }
        for name, value in overrides.items():
            environment[f"RELAIS_{name.upper()}"] = str(value)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers", queue],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait(10)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, *, timeout_s: float = 20.0) -> int:
        """Its exit code."""
        return self.process.wait(timeout_s)
