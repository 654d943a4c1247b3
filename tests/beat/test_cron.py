"""Nominal times, above all on the days when clocks change."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import cron
from ledger.errors import InvalidSchedule

PARIS, NEW_YORK = "Europe/Paris", "America/New_York"
ZONES = (
    PARIS,
    NEW_YORK,
    "UTC",
    "Australia/Lord_Howe",  # moves by half an hour
    "America/Havana",  # skips midnight
    "Africa/Cairo",
    "Asia/Beirut",
    "America/Santiago",
    "Asia/Kathmandu",
)
MINUTE = timedelta(minutes=1)
YEAR_2024 = datetime.fromisoformat("2024-01-01")  # naive: what strategies take


def local(expression: str, zone: str, *, day: str, days: int = 1) -> list[str]:
    """Local nominal times on `day`, with their offset."""
    tz = ZoneInfo(zone)
    start = datetime.fromisoformat(day).replace(tzinfo=tz)
    end = (datetime.fromisoformat(day) + timedelta(days=days)).replace(tzinfo=tz)
    times = []
    for moment in cron.parse(expression, zone).after(start.astimezone(UTC) - MINUTE):
        if moment >= end:
            break
        times.append(moment.astimezone(tz).strftime("%H:%M%z"))
    return times


@pytest.mark.parametrize(
    ("expression", "zone", "day", "expected"),
    [
        # Spring: 02:00-03:00 does not exist. A fixed time in the gap runs at its end, once.
        ("30 2 * * *", PARIS, "2026-03-29", ["03:00+0200"]),
        ("30 2 * * *", NEW_YORK, "2026-03-08", ["03:00-0400"]),
        ("0,30 2,3 * * *", PARIS, "2026-03-29", ["03:00+0200", "03:30+0200"]),
        # A wildcard follows the clock: nothing in the gap.
        ("*/30 2 * * *", PARIS, "2026-03-29", []),
        (
            "0 */2 * * *",
            NEW_YORK,
            "2026-03-08",
            [f"{h:02}:00-0{5 if h < 2 else 4}00" for h in range(0, 24, 2) if h != 2],
        ),
        # Autumn: 02:00-03:00 comes twice. A fixed time takes the first, a wildcard both.
        ("30 2 * * *", PARIS, "2026-10-25", ["02:30+0200"]),
        ("30 1 * * *", NEW_YORK, "2026-11-01", ["01:30-0400"]),
        (
            "*/30 2 * * *",
            PARIS,
            "2026-10-25",
            ["02:00+0200", "02:30+0200", "02:00+0100", "02:30+0100"],
        ),
        ("0 9 * * *", PARIS, "2026-10-25", ["09:00+0100"]),
        ("0 9 * * *", NEW_YORK, "2026-03-08", ["09:00-0400"]),
        # Midnight itself is skipped.
        ("0 0 * * *", "America/Havana", "2026-03-08", ["01:00-0400"]),
    ],
)
def test_days_when_clocks_change(expression: str, zone: str, day: str, expected: list[str]) -> None:
    assert local(expression, zone, day=day) == expected


def test_every_hour_of_the_repeated_hour_is_an_hour_apart() -> None:
    times = list(
        zip(
            cron.parse("@hourly", PARIS).after(datetime(2026, 10, 24, 12, tzinfo=UTC)),
            range(30),
            strict=False,
        )
    )
    gaps = {b[0] - a[0] for a, b in pairwise(times)}
    assert gaps == {timedelta(hours=1)}


fields = st.tuples(
    st.one_of(st.just("*"), st.sampled_from(["*/5", "*/7", "0", "30", "59", "0,30", "10-20/3"])),
    st.one_of(st.just("*"), st.sampled_from(["*/2", "*/5", "0", "1", "2", "3", "23", "1-3"])),
    st.sampled_from(["*", "*", "1", "15", "L", "25-31"]),
    st.sampled_from(["*", "*", "3", "10", "11"]),
    st.sampled_from(["*", "*", "MON", "SUN", "1-5", "SUN#1", "5L"]),
).map(" ".join)
# Half of all moments lie around a change of clocks, where the trouble is.
changes = [
    date(2026, 3, 8),
    date(2026, 3, 29),
    date(2026, 4, 5),
    date(2026, 4, 24),
    date(2026, 9, 6),
    date(2026, 10, 4),
    date(2026, 10, 25),
    date(2026, 10, 30),
    date(2026, 11, 1),
]
moments = st.one_of(
    st.datetimes(YEAR_2024, YEAR_2024.replace(year=2030)),
    st.builds(
        lambda day, minutes: (
            datetime.combine(day, datetime.min.time()) + timedelta(minutes=minutes)
        ),
        st.sampled_from(changes),
        st.integers(-1440, 1440),
    ),
).map(lambda moment: moment.replace(tzinfo=UTC))


def by_hand(parsed: cron.Cron, after: datetime, until: datetime) -> list[datetime]:
    """Every real minute whose wall time matches: what a wildcard means."""
    found = []
    moment = after.replace(second=0, microsecond=0)
    while moment <= until:
        wall = moment.astimezone(parsed.zone)
        spec = parsed.spec
        if (
            moment > after
            and wall.minute in spec.minutes
            and wall.hour in spec.hours
            and wall.month in spec.months
            and spec.match_day(wall.date())
        ):
            found.append(moment)
        moment += MINUTE
    return found


@given(fields, st.sampled_from(ZONES), moments)
def test_wildcards_fire_at_every_matching_minute_and_at_no_other(
    expression: str, zone: str, start: datetime
) -> None:
    parsed = cron.parse(expression, zone)
    if parsed.is_fixed:
        return
    until = start + timedelta(hours=30)
    times = []
    for moment in parsed.after(start):
        if moment > until:
            break
        times.append(moment)
    assert times == by_hand(parsed, start, until)


@given(fields, st.sampled_from(ZONES), moments)
def test_fixed_times_fire_once_for_each_wall_time(
    expression: str, zone: str, start: datetime
) -> None:
    parsed = cron.parse(expression, zone)
    if not parsed.is_fixed:
        return
    spec, day = parsed.spec, start.astimezone(parsed.zone).date()
    matches = day.month in spec.months and spec.match_day(day)
    times = [t for t in parsed._of_day(day) if t.astimezone(parsed.zone).date() == day]
    walls = len(spec.hours) * len(spec.minutes)
    # In a gap several wall times fall on one moment; never more moments than wall times.
    assert (0 < len(times) <= walls) if matches else not times
    assert len({t.astimezone(parsed.zone).replace(tzinfo=None) for t in times}) == len(times)


@given(fields, st.sampled_from(ZONES), moments, st.integers(1, 60 * 24 * 40))
def test_latest_is_the_last_of_after(
    expression: str, zone: str, start: datetime, minutes: int
) -> None:
    parsed = cron.parse(expression, zone)
    until = start + timedelta(minutes=minutes)
    last = None
    for moment in parsed.after(start):
        if moment > until:
            break
        last = moment
    assert parsed.latest(after=start, until=until) == last


@given(fields, st.sampled_from(ZONES), moments, st.integers(0, 60 * 72))
def test_where_the_search_begins_changes_nothing(
    expression: str, zone: str, start: datetime, minutes: int
) -> None:
    parsed = cron.parse(expression, zone)
    later = start + timedelta(minutes=minutes)
    from_start = [
        moment for moment, _ in zip(parsed.after(start), range(400), strict=False) if moment > later
    ][:3]
    assert (
        from_start
        == [moment for moment, _ in zip(parsed.after(later), range(3), strict=False)][
            : len(from_start)
        ]
    )


@pytest.mark.parametrize(
    ("expression", "zone", "field", "words"),
    [
        ("61 * * * *", PARIS, "cron", "minute"),
        ("* 24 * * *", PARIS, "cron", "hour"),
        ("* * 32 * *", PARIS, "cron", "day-of-month"),
        ("* * * 13 *", PARIS, "cron", "month"),
        ("* * * * 9", PARIS, "cron", "day-of-week"),
        ("0 0 30 2 *", PARIS, "cron", "day-of-month"),
        ("* * * *", PARIS, "cron", "five fields"),
        ("0 * * * * *", PARIS, "cron", "five fields"),
        ("", PARIS, "cron", "five fields"),
        ("@reboot", PARIS, "cron", "five fields"),
        ("0 9 * * *", "Mars/Olympus", "timezone", "time zone"),
        ("0 9 * * *", "../../etc/passwd", "timezone", "time zone"),
        ("0 9 * * *", "America", "timezone", "time zone"),
        ("0 9 * * *", "", "timezone", "time zone"),
    ],
)
def test_what_is_wrong_is_named(expression: str, zone: str, field: str, words: str) -> None:
    with pytest.raises(InvalidSchedule) as refused:
        cron.validate(expression, zone)
    assert refused.value.field == field
    assert words in refused.value.sentence
    assert refused.value.remedy


@given(st.text(max_size=60), st.one_of(st.just(PARIS), st.text(max_size=20)))
def test_nonsense_is_refused_with_a_sentence(expression: str, zone: str) -> None:
    with suppress(InvalidSchedule):
        times = cron.validate(expression, zone)
        assert times == sorted(set(times))


def test_the_next_five_times() -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    times = cron.validate("0 9 * * MON-FRI", PARIS, now=now)
    assert [t.isoformat() for t in times] == [
        f"2026-11-{day}T08:00:00+00:00" for day in (23, 24, 25, 26, 27)
    ]


def test_the_rarest_day_is_found() -> None:
    leap = cron.parse("0 0 29 2 *", "UTC").next_after(datetime(2096, 3, 1, tzinfo=UTC))
    assert leap == datetime(2104, 2, 29, tzinfo=UTC)
