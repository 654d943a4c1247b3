"""One service at a time, without the rest: backoff, one-shots, hanging, logs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from ops.errors import DiskFullError
from ops.stack import disk_space, logfiles, records, service_monitor
from ops.stack.child import Command
from ops.stack.service import Place, Service, State
from ops.stack.service_monitor import ServiceMonitor
from ops.stack.service_states import ServiceStates
from runtime import backoff
from tests.waiting import block_until


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[list[ServiceMonitor]]:
    """Keepers to halt, and their processes to stop, at the end."""
    started: list[ServiceMonitor] = []
    yield started
    for one in started:
        one.halt()
        one.join()
    records.stop_all(records.read_all(tmp_path))
    processes = [one._process for one in started if one._process is not None]
    block_until(lambda: all(process.poll() is not None for process in processes), within_s=5)


def service(tmp_path: Path, code: str, **rest: object) -> Service:
    command = Command((sys.executable, "-c", code), dict(os.environ))
    place = Place("toy", tmp_path, tmp_path, shared=False)
    return Service(place=place, command=lambda: command, **rest)  # type: ignore[arg-type]


def keep(
    one: Service, kept: list[ServiceMonitor], board: ServiceStates | None = None
) -> ServiceMonitor:
    mark = records.mark(one.place.run, one.name)
    made = ServiceMonitor(one, board or ServiceStates(), mark=mark, lock=None)
    kept.append(made)
    made.start()
    return made


def test_a_service_that_always_ends_is_tried_ever_more_slowly(
    tmp_path: Path, kept: list[ServiceMonitor]
) -> None:
    code = "import time; print(f'at {time.time()}', flush=True); raise SystemExit('no luck')"
    made = keep(service(tmp_path, code, healthy=lambda _pid, _age: False), kept)
    block_until(lambda: made.view()["failures"] >= 4)
    starts = [
        float(line[3:]) for line in made.service.log.read_text().splitlines() if "at " in line
    ]
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    # The first restart comes at once, the third waits twice as long as the second.
    assert pauses[1] >= 1.0
    assert pauses[2] >= 2.0
    assert made.view()["last_exit"] == "exit code 1"
    assert "no luck" in made.view()["reason"]


def kill(made: ServiceMonitor) -> None:
    """SIGKILL what it keeps, and wait until it is seen to have ended."""
    restarts = made.view()["restarts"]
    os.kill(block_until(lambda: made.view()["pid"]), signal.SIGKILL)
    block_until(lambda: made.view()["restarts"] > restarts)


def test_what_had_been_healthy_is_started_again_at_once_however_often_it_is_killed(
    tmp_path: Path, kept: list[ServiceMonitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "WELL_S", 0.3)
    monkeypatch.setattr(service_monitor, "_ASK_S", 0.05)
    made = keep(service(tmp_path, "import time; time.sleep(600)"), kept)
    for time_round in range(1, 7):
        block_until(lambda: is_well(made, for_s=0.5))
        kill(made)
        block_until(lambda: made.view()["pid"], within_s=0.9, what=f"restart {time_round}")


def is_well(made: ServiceMonitor, *, for_s: float) -> bool:
    view = made.view()
    return bool(view["state"] == State.HEALTHY and time.time() - view["since"] > for_s)


def test_after_a_storm_of_kills_it_is_back_within_seconds(
    tmp_path: Path, kept: list[ServiceMonitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed again and again before it can be healthy: that says nothing against it."""
    monkeypatch.setattr(backoff, "FIRST_S", 0.05)
    monkeypatch.setattr(backoff, "SERVED_MAX_S", 0.4)
    code = "import time; time.sleep(600)"
    is_up: set[int | None] = set()
    made = keep(service(tmp_path, code, healthy=lambda pid, _age: pid in is_up), kept)
    is_up.add(block_until(lambda: made.view()["pid"]))
    block_until(lambda: made.view()["state"] == State.HEALTHY)
    for _ in range(10):
        kill(made)
    block_until(lambda: made.view()["pid"], within_s=2.0)


def test_back_off_by_what_it_was_before() -> None:
    def pauses(one: backoff.Backoff, *, well_s: float | None, times: int) -> list[float]:
        found = []
        for _ in range(times):
            if well_s is not None:
                one.healthy(for_s=well_s)
            one.failed()
            found.append(one.pause_s(is_fatal=False))
        return found

    assert pauses(backoff.Backoff(), well_s=5.0, times=20) == [0.0] * 20
    never = pauses(backoff.Backoff(), well_s=None, times=8)
    assert never == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    young = pauses(backoff.Backoff(), well_s=1.0, times=14)
    assert young == [0.0, 1.0, 2.0, *[4.0] * 9, 30.0, 30.0]
    one = backoff.Backoff()
    assert pauses(one, well_s=None, times=3) == [0.0, 1.0, 2.0]
    assert pauses(one, well_s=5.0, times=1) == [0.0]
    one.healthy(for_s=0.0)
    one.failed()
    assert one.pause_s(is_fatal=True) == 1.0


def test_a_one_shot_is_done_once_and_not_started_again(
    tmp_path: Path, kept: list[ServiceMonitor]
) -> None:
    made = keep(service(tmp_path, "print('ran')", once=True), kept)
    block_until(lambda: made.view()["state"] == State.DONE)
    made.join(timeout=5)
    assert made.service.log.read_text() == "ran\n"
    assert made.view()["restarts"] == 0


def test_it_waits_for_what_it_needs(tmp_path: Path, kept: list[ServiceMonitor]) -> None:
    board = ServiceStates()
    board.post("store", State.STARTING)
    made = keep(service(tmp_path, "import time; time.sleep(60)", needs=("store",)), kept, board)
    block_until(made.is_alive)
    assert made.view()["state"] == State.WAITING
    assert made.view()["pid"] is None
    board.post("store", State.HEALTHY)
    block_until(lambda: made.view()["state"] == State.HEALTHY)


def test_what_runs_but_does_not_answer_is_killed_and_started_again(
    tmp_path: Path, kept: list[ServiceMonitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_monitor, "_HUNG_S", 0.3)
    monkeypatch.setattr(service_monitor, "_ASK_S", 0.05)
    answers = {"well": True}
    made = keep(
        service(
            tmp_path, "import time; time.sleep(60)", healthy=lambda _pid, _age: answers["well"]
        ),
        kept,
    )
    block_until(lambda: made.view()["state"] == State.HEALTHY)
    first = made.view()["pid"]
    answers["well"] = False
    block_until(lambda: made.view()["restarts"] == 1)
    answers["well"] = True
    block_until(lambda: made.view()["state"] == State.HEALTHY)
    assert made.view()["pid"] != first


def test_nothing_is_hung_while_what_it_needs_is_down(
    tmp_path: Path, kept: list[ServiceMonitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_monitor, "_HUNG_S", 0.2)
    monkeypatch.setattr(service_monitor, "_ASK_S", 0.05)
    asked: list[float] = []
    board = ServiceStates()
    board.post("store", State.HEALTHY)

    def healthy(_pid: int | None, _age: float) -> bool:
        asked.append(time.monotonic())
        return board.ready(("store",))

    one = service(tmp_path, "import time; time.sleep(60)", needs=("store",), healthy=healthy)
    made = keep(one, kept, board)
    block_until(lambda: made.view()["state"] == State.HEALTHY)
    board.post("store", State.UNHEALTHY)
    block_until(lambda: made.view()["state"] == State.UNHEALTHY)
    unwell_since = time.monotonic()
    block_until(lambda: asked[-1] > unwell_since + 0.6)
    assert made.view()["restarts"] == 0


def test_a_log_that_grew_too_large_makes_room_and_is_followed_across_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfiles, "SIZE_MAX_BYTES", 100)
    path = tmp_path / "bulk.log"
    with path.open("ab", buffering=0) as log:
        log.write(b"first\n")
        follower = logfiles.Follower(path)
        log.write(b"one\ntw")
        assert list(follower.new_lines()) == ["one"]
        log.write(b"o\n")
        assert list(follower.new_lines()) == ["two"]
        log.write(b"x" * 200 + b"\n")
        logfiles.trim(tmp_path)
        # The same open file goes on at its new end.
        log.write(b"after\n")
        assert list(follower.new_lines()) == ["after"]
    assert path.read_text() == "after\n"
    assert (tmp_path / "bulk.log.1").read_text().startswith("first\n")
    assert logfiles.last_lines(path, 5) == ["after"]
    assert logfiles.last_lines(tmp_path / "none.log", 5) == []


def test_too_little_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "NEEDED_BYTES", 2**62)
    with pytest.raises(DiskFullError, match=r"Only \d+ MB are free"):
        disk_space.require(tmp_path / "not" / "yet")
