"""The supervisor does not go on without one of its own threads."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.stack import layout, processes
from tests.stack.cluster import port_base

BROKEN = """
import sys
from ops.stack import service_monitor, supervisor

def broken(self):
    raise ValueError("nothing that it expects")

service_monitor.ServiceMonitor._begin = broken
sys.exit(supervisor.main(sys.argv[1:]))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that the account of Postgres may enter."""
    with tempfile.TemporaryDirectory(prefix="relais-supervisor-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def test_a_thread_that_breaks_down_ends_it_with_a_reason(folder: Path) -> None:
    base = port_base()
    options = ("--data-dir", folder, "--colour", "blue", "--port-base", base, "--only", "inbox")
    ended = subprocess.run(
        [sys.executable, "-c", BROKEN, *map(str, options)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 1, ended.stderr
    refusal = json.loads(layout.find(folder, "blue", base).refusal.read_text("utf-8"))
    sentence = "The thread that monitors inbox failed: ValueError: nothing that it expects."
    assert refusal["sentence"] == sentence
    assert "supervisor.log" in refusal["remedy"]
    assert "stack.keeper_broken" in ended.stdout + ended.stderr


def test_a_path_that_the_locale_cannot_read_is_looked_for_all_the_same() -> None:
    assert list(processes.marked("RELAIS_OF_NOBODY", "/tmp/\udcc3\udcbc")) == []
