"""Real beat processes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests import launcher

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from runtime.settings import Settings

CANARY_S = 0.5


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """What a process of this test is told."""
    told = {"RELAIS_CANARY_S": str(CANARY_S), "RELAIS_LOG_LEVEL": "DEBUG"}
    return launcher.environment(settings) | told | more


@contextmanager
def beat(settings: Settings, log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running beat; killed at the end if it has not ended by itself."""
    process = launcher.start("workers.beat", env=environment(settings, **more), log=log)
    try:
        yield process
    finally:
        launcher.kill(process)
