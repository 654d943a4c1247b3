"""Processes under test: `python -m WORDS` with what a test tells them, their output in a log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
END_S = 10.0


def environment(settings: Settings | None = None, **variables: str) -> dict[str, str]:
    """This process's environment without settings of its own; services and folder of `settings`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RELAIS_", "OTEL_"))}
    told: dict[str, str] = {}
    if settings is not None:
        told = {
            "RELAIS_DATABASE_URL": settings.database_url.get_secret_value(),
            "RELAIS_REDIS_URL": settings.redis_url.get_secret_value(),
            "RELAIS_DATA_DIR": str(settings.data_dir),
        }
    return {**inherited, "PYTHONPATH": str(ROOT), **told, **variables}


def start(
    *words: str, env: Mapping[str, str], log: Path, out: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start it; what it says is appended to `log`, its standard output to `out` where that is."""
    with log.open("ab") as said, (out or log).open("ab") as printed:
        return subprocess.Popen(
            [sys.executable, "-m", *words], env=env, cwd=ROOT, stdout=printed, stderr=said
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL if it still runs, and wait for its end."""
    if process.poll() is None:
        process.kill()
    process.wait(END_S)
