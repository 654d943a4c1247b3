from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops import stack
from ops.stack import control, ports

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not pytest's own folder: as root, Postgres runs under an account that may not enter that.
    with tempfile.TemporaryDirectory(prefix="relais-demo-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder / "data"
        control.down(stack.find(folder / "data"))


def ten_ports() -> int:
    while True:
        base = ports.free()
        if base < 65_000 and all(ports.is_free(base + n) for n in range(10)):
            return base


def relais(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RELAIS_")}
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", *words],
        cwd=ROOT,
        env={**kept, **variables, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_from_nothing_to_balanced_books_twice(data_dir: Path) -> None:
    where = (f"--data-dir={data_dir}", f"--port-base={ten_ports()}")
    for _ in range(2):  # the second run finds the stack up, and mails of the first in the inbox
        done = relais("demo", "--json", "--recipients=60", *where)
        assert done.returncode == 0, done.stdout + done.stderr
        books: dict[str, Any] = json.loads(done.stdout)
        assert set(books) == {
            "accepted",
            "succeeded",
            "failed",
            "unknown",
            "open",
            "messages_sent",
            "inbox",
            "duplicates",
            "seconds",
            "urls",
        }
        assert (books["accepted"], books["succeeded"], books["failed"]) == (70, 69, 1)
        assert (books["unknown"], books["open"], books["duplicates"]) == (0, 0, 0)
        assert books["messages_sent"] == books["inbox"] == 69
    for name in ("gateway", "inbox"):
        assert httpx.get(books["urls"][name], trust_env=False).status_code == 200


def test_a_relay_of_the_users_own_is_refused_before_anything_starts(data_dir: Path) -> None:
    done = relais("demo", f"--data-dir={data_dir}", RELAIS_SMTP_URL="smtp://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("Mail goes to the relay in RELAIS_SMTP_URL")
    assert not control.is_running(stack.find(data_dir))
