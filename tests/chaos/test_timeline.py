"""Counts over time, and bars for them."""

from __future__ import annotations

import pytest

from lab.chaos import timeline
from lab.chaos.history import History, Job, Struck


def job(number: int, *, created_at: float, finished_at: float | None) -> Job:
    return Job(
        id=str(number), key=f"k{number}", kind="template.render", state="succeeded", attempt=1,
        reason=None, accepted_by="chaos", has_callback=False, created_at=created_at,
        finished_at=finished_at,
    )  # fmt: skip


def test_everything_is_counted_where_it_happened() -> None:
    history = History()
    moments = [(100.0, 100.5), (100.2, 102.1), (101.0, None)]
    for number, (created_at, finished_at) in enumerate(moments):
        history.jobs[str(number)] = job(number, created_at=created_at, finished_at=finished_at)
    history.faults = [Struck("redis_killed", "redis", 101.5, 101.8)]
    assert timeline.of(history) == {
        "every_s": 1.0,
        "accepted": [2, 1, 0],
        "finished": [1, 0, 1],
        "faults": [0, 1, 0],
    }


def test_long_runs_have_no_more_bars() -> None:
    history = History()
    for number in range(601):
        history.jobs[str(number)] = job(number, created_at=float(number), finished_at=None)
    accepted = timeline.of(history)["accepted"]
    assert isinstance(accepted, list)
    assert len(accepted) <= timeline.STRETCHES + 1
    assert sum(accepted) == 601


def test_nothing_is_no_line() -> None:
    assert timeline.of(History())["finished"] == []


@pytest.mark.parametrize(
    ("values", "line"),
    [((), ""), ((0, 0), "  "), ((1,), "█"), ((0, 1, 8), " ▁█"), ((4, 8), "▄█")],
)
def test_bars(values: tuple[int, ...], line: str) -> None:
    assert timeline.bars(values) == line
