"""The heap of what is due next, against planning everything anew at every look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from ledger.due import Times
from workers import timetable
from workers.timetable import Timetable

START = datetime(2026, 3, 28, 20, tzinfo=UTC)  # a few hours before clocks change
CRONS = ("* * * * *", "*/10 * * * *", "30 2 * * *", "0 0 29 2 *", "15 3 29 3 *", "nonsense")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(1, 200)),  # minutes go by, what is due is fired
        st.tuples(st.just("change"), st.integers(0, 5), st.sampled_from(CRONS)),
        st.tuples(st.just("remove"), st.integers(0, 5)),
        st.tuples(st.just("fail"), st.integers(1, 90)),  # what is due cannot be fired now
    ),
    max_size=25,
)


@given(steps)
def test_it_says_what_planning_everything_anew_would_say(given: list[tuple[Any, ...]]) -> None:
    table, now, version = Timetable(), START, 0
    enabled: dict[UUID, Times] = {}
    dealt_with: dict[UUID, datetime] = {}
    for step in given:
        if step[0] == "change":
            version += 1
            key = UUID(int=step[1])
            changed_at = START + timedelta(seconds=version)
            enabled[key] = Times(key, step[2], "Europe/Paris", changed_at, now)
            dealt_with[key] = now
            refused = table.update(enabled.values())
            assert [times.id for times, _ in refused] == ([key] if step[2] == "nonsense" else [])
        elif step[0] == "remove":
            enabled.pop(UUID(int=step[1]), None)
            assert table.update(enabled.values()) == []
        else:
            now += timedelta(minutes=step[1])
            due = {tick.times.id: tick.nominal_at for tick in table.due(now, limit=100)}
            expected = {
                key: at
                for key, times in enabled.items()
                if times.cron != "nonsense"
                and (at := times.latest_due(after=dealt_with[key], now=now)) is not None
            }
            assert due == expected
            assert (table.next_at is not None and table.next_at <= now) == bool(due)
            for key, at in due.items():
                if step[0] == "fail":
                    table.postpone(enabled[key], until=now + timedelta(seconds=30))
                else:
                    table.plan(enabled[key], after=at)
                    dealt_with[key] = at
            assert table.next_at is None or table.next_at > now


def times(number: int, *, cron: str = "* * * * *", changed_at: datetime = START) -> Times:
    return Times(UUID(int=number), cron, "UTC", changed_at, START)


def test_only_what_was_fired_or_changed_is_planned_again(monkeypatch: Any) -> None:
    planned: list[UUID] = []
    real = Times.next_after

    def counted(self: Times, moment: datetime) -> datetime | None:
        planned.append(self.id)
        return real(self, moment)

    monkeypatch.setattr(Times, "next_after", counted)
    table, everybody = Timetable(), [times(number, cron="0 0 1 1 *") for number in range(1_000)]
    table.update(everybody)
    planned.clear()
    table.update([*everybody[1:], times(0, changed_at=START + timedelta(seconds=1))])
    (tick,) = table.due(START + timedelta(minutes=5), limit=100)
    table.plan(tick.times, after=tick.nominal_at)
    assert planned == [UUID(int=0)] * 2


def test_the_longest_overdue_come_first_where_there_are_too_many() -> None:
    table = Timetable()
    table.update(times(number, cron=f"{number} * * * *") for number in range(60))
    now = START + timedelta(hours=1)
    first = table.due(now, limit=10)
    assert [tick.nominal_at.minute for tick in first] == [*range(1, 11)]
    for tick in first:
        table.plan(tick.times, after=tick.nominal_at)
    assert [tick.nominal_at.minute for tick in table.due(now, limit=5)] == [11, 12, 13, 14, 15]


def test_what_is_out_of_date_does_not_pile_up() -> None:
    table = Timetable()
    for version in range(5 * timetable.SPARE_MAX):
        changed_at = START + timedelta(seconds=version)
        table.update([times(1, cron="0 0 1 1 *", changed_at=changed_at)])
    assert len(table._heap) <= 2 * timetable.SPARE_MAX
