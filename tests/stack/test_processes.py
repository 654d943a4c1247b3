"""A process is known by its start time: the wrong one is never signalled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from signal import SIGKILL, SIGTERM

from ops.stack import processes, records
from ops.stack.processes import Identity
from tests.waiting import block_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_process_with_the_same_number_but_another_start_is_left_alone() -> None:
    with subprocess.Popen(SLEEP) as process:
        real = Identity.of(process.pid)
        assert real is not None
        stranger = Identity(process.pid, real.started + "0")
        assert not stranger.alive()
        assert not stranger.send(SIGKILL)
        assert stranger.wait(5.0)
        assert process.poll() is None
        assert real.send(SIGTERM)
        assert real.wait(5.0)
        assert process.wait() == -SIGTERM


def test_a_zombie_is_gone() -> None:
    with subprocess.Popen(SLEEP) as process:
        identity = Identity.of(process.pid)
        assert identity is not None
        assert identity.alive()
        process.kill()
        # Not reaped yet: the number is still taken.
        assert identity.wait(5.0)
        block_until(lambda: not identity.alive())
        assert Identity.of(process.pid) is None


def test_strays_are_found_by_their_mark_and_nothing_else_is_touched() -> None:
    mine = {**os.environ, records.MARK: "/somewhere/run/blue:bulk:"}
    other = {**os.environ, records.MARK: "/somewhere/run/blue:bulk-two:"}
    with subprocess.Popen(SLEEP, env=mine) as stray, subprocess.Popen(SLEEP, env=other) as kept:
        marked = records.mark(Path("/somewhere/run/blue"), "bulk")
        block_until(
            lambda: [one.pid for one in processes.marked(records.MARK, marked)] == [stray.pid]
        )
        records.clear_strays(marked)
        assert stray.wait() == -SIGKILL
        assert kept.poll() is None
        kept.kill()


def test_memory_and_family_can_be_read() -> None:
    assert os.getpid() in processes.family(os.getppid())
    size = processes.pss_bytes([os.getpid()])
    assert size is not None
    assert size > 1_000_000
