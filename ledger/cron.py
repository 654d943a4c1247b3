"""Nominal times of a cron expression in a time zone, exact on daylight-saving days.

cronsim reads the expression and knows which days match; which instants those wall times are is
decided here, by the rules that Debian's cron made familiar:

- fixed times ("30 2 * * *") fire once a day: at the end of the gap where the clock skips them,
  at the first of two where it repeats them;
- wildcards ("*/15 * * * *", "0 */2 * * *") follow the wall clock: nothing in the gap, and again
  in the repeated hour.

cronsim's own iterator does the same except where the clock moves by half an hour
(Australia/Lord_Howe), and it depends there on where the iteration began.

The next time is computed, not searched for: which minutes, hours and days match are bits of
integers, and only spans of time in which clocks change are looked at more than once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from ledger import zones
from ledger.errors import InvalidSchedule
from ledger.matching_days import MatchingDays, bits_of, next_bit

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPRESSION_MAX_CHARACTERS = 200
PARSED_MAX = 16_384  # expressions that are cached in parsed form
YEAR_MAX = 9_900  # no clock is asked beyond
ABBREVIATIONS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a time zone; make it with `parse`."""

    expression: str
    timezone: str
    zone: ZoneInfo
    minutes: int  # bit 30 is set: it fires at half past
    hours: int
    days: MatchingDays
    is_fixed: bool  # neither minute nor hour starts with a star

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Nominal times later than `moment`, in UTC, in order; ends if there are no more."""
        found = self.next_after(moment)
        while found is not None:
            yield found
            found = self.next_after(found)

    def next_after(self, moment: datetime) -> datetime | None:
        """The first nominal time later than `moment`; None if there is none."""
        moment = moment.astimezone(UTC)
        return self._fixed_after(moment) if self.is_fixed else self._wildcard_after(moment)

    def latest(self, *, after: datetime, until: datetime) -> datetime | None:
        """The last nominal time later than `after` and not later than `until`."""
        found = self._within(after, until)
        if found is None:
            return None
        width = _MINUTE  # the last one is usually the only one, or close to `until`
        while until - width > found:
            if (closer := self._within(until - width, until)) is not None:
                found = closer
                break
            if self._within(found, until) is None:
                return found
            width *= 2
        end = until  # what is looked for is not later
        while end - found >= _MINUTE:
            middle = found + (end - found) / 2
            if (closer := self._within(middle, until)) is not None:
                found = closer
            else:
                end = middle
        return found

    def _within(self, after: datetime, until: datetime) -> datetime | None:
        found = self.next_after(after)
        return found if found is not None and found <= until else None

    def _wildcard_after(self, moment: datetime) -> datetime | None:
        """A wall time that matches, in the first span of constant offset that shows it."""
        at = moment + _MOMENT
        while at.year < YEAR_MAX:
            span = zones.span_at(self.timezone, at)
            wall = _whole_minute(at.replace(tzinfo=None) + span.offset)
            match = self._wall_from(wall)
            if match is None:
                return None
            instant = match.replace(tzinfo=UTC) - span.offset
            if instant < span.ends:
                return instant
            at = span.ends
            # Clocks are less than a day from UTC, so that none of them shows `match` more than a
            # day before, or shows again what lies before `wall` more than a day after: spans in
            # between need not be looked at.
            if at >= wall.replace(tzinfo=UTC) + _DAY:
                at = max(at, match.replace(tzinfo=UTC) - _DAY)
        return None

    def _fixed_after(self, moment: datetime) -> datetime | None:
        """The first wall time that falls on a later moment; later walls never fall earlier."""
        if moment.year >= YEAR_MAX:
            return None
        wall = moment.astimezone(self.zone).replace(tzinfo=None, fold=0)
        match = self._wall_from(_whole_minute(wall + _MOMENT))
        while match is not None:
            instant = self._first_instant(match)
            if instant > moment:
                return instant
            # A clock that was set back repeats times that have already fired.
            match = self._wall_from(match + _MINUTE)
        return None

    def _wall_from(self, wall: datetime) -> datetime | None:
        """The first wall time that matches and is not before `wall`, a whole minute."""
        date = wall.date()
        day = self.days.first_from(date)
        if day == date:
            hour, minute = wall.hour, next_bit(self.minutes, wall.minute)
            if minute is not None and self.hours >> hour & 1:
                return datetime.combine(date, time(hour, minute))
            if (later := next_bit(self.hours, hour + 1)) is not None:
                return datetime.combine(date, time(later, next_bit(self.minutes, 0) or 0))
            day = self.days.first_from(date + _DAY)
        if day is None:
            return None
        return datetime.combine(
            day, time(next_bit(self.hours, 0) or 0, next_bit(self.minutes, 0) or 0)
        )

    def _first_instant(self, wall: datetime) -> datetime:
        """When clocks first show `wall`, or the end of the gap that it lies in."""
        while True:
            first, second = (
                wall.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1)
            )
            if first <= second:
                return first
            wall += _MINUTE


def validate(cron: str, timezone: str, *, now: datetime | None = None) -> list[datetime]:
    """The next five nominal times; InvalidSchedule names the field that is wrong."""
    times = list(islice(parse(cron, timezone).after(now or datetime.now(UTC)), 5))
    if not times:
        raise _invalid(
            field="cron",
            problem=f"{cron!r} never matches",
            remedy="Choose a date that exists.",
        )
    return times


@lru_cache(maxsize=PARSED_MAX)
def parse(cron: str, timezone: str) -> Cron:
    """`cron` (five fields or an @abbreviation) in the IANA zone `timezone`, or InvalidSchedule."""
    if timezone not in _zones():
        raise _invalid(
            field="timezone",
            problem=f"{timezone[:64]!r} is not a known time zone",
            remedy="Use an IANA name such as Europe/Paris or UTC.",
        )
    expression = ABBREVIATIONS.get(cron.strip().lower(), cron.strip())
    fields = expression.split()
    if len(expression) > EXPRESSION_MAX_CHARACTERS or len(fields) != 5:
        raise _invalid(
            field="cron",
            problem=f"{cron[:EXPRESSION_MAX_CHARACTERS]!r} does not have five fields",
            remedy="Write minute, hour, day of month, month and day of week: 0 9 * * MON-FRI.",
        )
    try:
        spec = CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, RecursionError) as error:
        problem = str(error).removeprefix("Bad ").lower() or "expression"
        raise _invalid(
            field="cron",
            problem=f"the {problem} of {cron!r} is not valid",
            remedy="Write minute, hour, day of month, month and day of week: 0 9 * * MON-FRI.",
        ) from error
    return Cron(
        expression=expression,
        timezone=timezone,
        zone=ZoneInfo(timezone),
        minutes=bits_of(spec.minutes),
        hours=bits_of(spec.hours),
        days=_days(*fields[2:]),
        is_fixed=not (fields[0].startswith("*") or fields[1].startswith("*")),
    )


@lru_cache(maxsize=PARSED_MAX)
def _days(*fields: str) -> MatchingDays:
    """The days of an expression, one object for all that name the same."""
    spec = CronSim(" ".join(("0", "0", *fields)), datetime(2000, 1, 1, tzinfo=UTC))
    return MatchingDays(spec)


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    """Names that are files of the time zone database; anything else never becomes a path."""
    return frozenset(available_timezones())


def _whole_minute(wall: datetime) -> datetime:
    """`wall`, or the next whole minute."""
    whole = wall.replace(second=0, microsecond=0)
    return whole if whole == wall else whole + _MINUTE


def _invalid(*, field: str, problem: str, remedy: str) -> InvalidSchedule:
    return InvalidSchedule(f"{field}: {problem}.", field=field, remedy=remedy)
