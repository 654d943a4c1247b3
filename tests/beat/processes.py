"""Real beat processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runtime.settings import Settings

CANARY_S = 0.5


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """What a process of this test is told."""
    return {
        **os.environ,
        "PYTHONPATH": os.getcwd(),  # noqa: PTH109 - as the shell would write it
        "RELAIS_DATABASE_URL": settings.database_url.get_secret_value(),
        "RELAIS_REDIS_URL": settings.redis_url.get_secret_value(),
        "RELAIS_DATA_DIR": str(settings.data_dir),
        "RELAIS_CANARY_S": str(CANARY_S),
        "RELAIS_LOG_LEVEL": "DEBUG",
        **more,
    }


@contextmanager
def beat(settings: Settings, log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running beat; killed at the end if it has not ended by itself."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.beat"],
            env=environment(settings, **more),
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
