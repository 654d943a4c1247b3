"""Numbers of many processes, living and killed, in one scrape."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime import exposition, metrics
from runtime.settings import Settings
from tests.waiting import block_until

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNTER = """
import sys, time
from runtime import exposition, metrics, settings
metrics.configure(settings.load(), service="worker-bulk")
metrics.finished(queue="bulk", kind="test.nothing", outcome="succeeded", count=int(sys.argv[1]))
metrics.ran(queue="bulk", kind="test.nothing", seconds=0.2, count=int(sys.argv[1]))
if sys.argv[2] == "clean":
    metrics.shutdown()
    sys.exit()
print("counted", flush=True)
time.sleep(120)
"""
SUCCEEDED = {"queue": "bulk", "kind": "test.nothing", "outcome": "succeeded", "colour": "blue"}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Path]:
    """This process shares the folder, as the gateway does; the folder."""
    metrics.configure(Settings(data_dir=tmp_path), service="gateway")
    yield tmp_path / "metrics" / "blue"
    metrics.shutdown()
    metrics.configure(Settings(data_dir=tmp_path), service="forget")
    metrics.shutdown()


def start(folder: Path, count: int, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COUNTER, str(count), how],
        env={**os.environ, "PYTHONPATH": ".", "RELAIS_DATA_DIR": str(folder.parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )


def sample(name: str, labels: dict[str, str]) -> float:
    for family in text_string_to_metric_families(exposition.render().decode()):
        for one in family.samples:
            if one.name == name and one.labels == labels:
                return one.value
    return 0.0


def succeeded() -> float:
    return sample("relais_jobs_finished_total", SUCCEEDED)


def test_the_living_the_ended_and_the_killed_are_added_up(gateway: Path) -> None:
    metrics.finished(queue="bulk", kind="test.nothing", outcome="succeeded", count=1)
    alive, killed, clean = (
        start(gateway, 10, "stay"),
        start(gateway, 100, "stay"),
        start(gateway, 1000, "clean"),
    )
    try:
        block_until(lambda: succeeded() == 1111, what="1111 jobs")
        clean.wait()
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert succeeded() == 1111
        assert sample("relais_run_seconds_count", {"queue": "bulk", "kind": "test.nothing"}) == 1110
        assert (
            sample(
                "relais_run_seconds_bucket", {"queue": "bulk", "kind": "test.nothing", "le": "0.25"}
            )
            == 1110
        )
        assert (
            sample(
                "relais_run_seconds_bucket", {"queue": "bulk", "kind": "test.nothing", "le": "0.1"}
            )
            == 0
        )
        assert len(list(gateway.glob("worker-bulk-*.json"))) == 1  # the dead are folded into one
    finally:
        for process in (alive, killed, clean):
            process.kill()
            process.communicate()
    assert succeeded() == 1111


def test_the_folder_does_not_grow_with_restarts(gateway: Path) -> None:
    for _ in range(5):
        processes = [start(gateway, 1, "clean") for _ in range(3)]
        assert [process.wait() for process in processes] == [0, 0, 0]
        for process in processes:
            process.communicate()
    assert succeeded() == 15
    assert len(list(gateway.iterdir())) <= 4  # this process's two, the lock, the sum


@pytest.mark.parametrize("after", ["written", "first removed", "replaced"])
def test_a_crash_while_folding_neither_loses_nor_doubles(
    gateway: Path, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in (1, 10):
        process = start(gateway, count, "clean")
        process.communicate()
    real_unlink, real_replace = Path.unlink, Path.replace
    removed = 0

    class Crash(BaseException):
        pass

    def unlink(self: Path, missing_ok: bool = False) -> None:
        nonlocal removed
        if (
            after == "written"
            or (after == "first removed" and removed)
            or (after == "replaced" and self.suffix == ".lock")
        ):
            raise Crash
        removed += 1
        real_unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(Crash):
            exposition.render()
    assert Path.replace is real_replace
    assert succeeded() == 11
    assert succeeded() == 11


def test_labels_are_bounded(gateway: Path) -> None:
    for number in range(500):
        metrics.mailed(relay=f"relay-{number}", outcome="sent")
    text = exposition.render().decode()
    assert text.count("relais_emails_total{") == metrics.VALUES_MAX + 1
    assert 'relay="other"' in text


def test_kinds_that_nobody_registered_are_other(gateway: Path, tmp_path: Path) -> None:
    metrics.configure(Settings(data_dir=tmp_path), service="gateway", kinds=["email.send"])
    metrics.accepted(queue="bulk", kind="made.up", count=2)
    metrics.accepted(queue="bulk", kind="email.send")
    assert sample("relais_jobs_accepted_total", {"queue": "bulk", "kind": "other"}) == 2
    assert sample("relais_jobs_accepted_total", {"queue": "bulk", "kind": "email.send"}) == 1


def test_gauges_are_read_at_the_scrape(gateway: Path) -> None:
    depth = [
        metrics.Gauge("relais_queue_depth", "Ready jobs.", {"queue": queue}, value)
        for queue, value in (("bulk", 3), ('odd"\n\\', 1.5))
    ]
    families = {
        family.name: family
        for family in text_string_to_metric_families(exposition.render(depth).decode())
    }
    assert {one.labels["queue"]: one.value for one in families["relais_queue_depth"].samples} == {
        "bulk": 3,
        'odd"\n\\': 1.5,
    }


def test_a_folder_that_cannot_be_written_costs_only_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("in the way")
    metrics.configure(Settings(data_dir=tmp_path), service="gateway")
    metrics.finished(queue="bulk", kind="test.nothing", outcome="succeeded")
    assert succeeded() == 1
    metrics.shutdown()


def test_a_job_costs_three_percent_of_a_core_at_5000_per_second(gateway: Path) -> None:
    def once() -> float:
        began = time.thread_time()
        for _ in range(2000):
            metrics.finished(queue="bulk", kind="test.nothing", outcome="succeeded")
            metrics.ran(queue="bulk", kind="test.nothing", seconds=0.02)
            metrics.waited(queue="bulk", seconds=0.3)
        return (time.thread_time() - began) / 2000

    assert min(once() for _ in range(10)) < 0.03 / 5000
