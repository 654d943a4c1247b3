"""A stack on ports of its own in a folder of its own, driven through the command line."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ops.stack import layout, report
from tests.waiting import block_until

CHECKOUT = Path(__file__).resolve().parents[2]


def port_base() -> int:
    """First of ten neighbouring free ports."""
    while True:
        with ExitStack() as held, socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            base = int(first.getsockname()[1])
            try:
                for offset in range(1, 10):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", base + offset))
            except (OSError, OverflowError):
                continue
            return base


class Cluster:
    """The command line with a data folder; `base` holds the first port per colour."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.base = {"blue": port_base(), "green": port_base()}
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RELAIS_")},
            "PYTHONPATH": str(CHECKOUT),
        }

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "ops.cli", *words],
            env={**self.env, "RELAIS_DATA_DIR": str(self.data), **env},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def up(self, *only: str, colour: str = "blue", **env: str) -> subprocess.CompletedProcess[str]:
        """`up --detach` with these services only."""
        chosen = [word for name in only for word in ("--only", name)]
        options = ("--detach", "--colour", colour, "--port-base", str(self.base[colour]))
        return self.run("up", *options, *chosen, **env)

    def down(self, *, colour: str = "blue") -> subprocess.CompletedProcess[str]:
        return self.run("down", "--colour", colour)

    def status(self, *, colour: str = "blue") -> dict[str, Any]:
        """What `status --json` prints, without a process for every look."""
        return report.make(layout.find(self.data, colour))

    def service(self, name: str, *, colour: str = "blue") -> dict[str, Any]:
        """What `status` says of one service; empty where it says nothing."""
        services = self.status(colour=colour)["services"]
        return next((one for one in services if one["name"] == name), {})

    def kept_here(self, name: str, *, colour: str) -> dict[str, Any]:
        """What `status` says of a service once this colour keeps it and it is healthy."""

        def seen() -> dict[str, Any] | None:
            one = self.service(name, colour=colour)
            return one if one["kept"] == "here" and one["state"] == "healthy" else None

        found: dict[str, Any] = block_until(seen)
        return found


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A stand whose stacks are down and whose folder is gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="relais-stack-"))
    folder.chmod(0o711)
    made = Cluster(folder)
    try:
        yield made
    finally:
        for colour in ("green", "blue"):
            made.down(colour=colour)
        shutil.rmtree(folder, ignore_errors=True)
