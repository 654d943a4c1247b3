"""Nominal times of a cron expression in a time zone, exact on daylight-saving days.

cronsim reads the expression and knows which days match; which instants those wall times are is
decided here, by the rules that Debian's cron made familiar:

- fixed times ("30 2 * * *") fire once a day: at the end of the gap where the clock skips them,
  at the first of two where it repeats them;
- wildcards ("*/15 * * * *", "0 */2 * * *") follow the wall clock: nothing in the gap, and again
  in the repeated hour.

cronsim's own iterator does the same except where the clock moves by half an hour
(Australia/Lord_Howe), and it depends there on where the iteration began.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from ledger.errors import InvalidSchedule

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPRESSION_MAX_CHARACTERS = 200
SEARCH_DAYS = 366 * 50  # 29 February on a fifth Monday is that rare
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


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a time zone; make it with `parse`."""

    expression: str
    timezone: str
    spec: CronSim
    zone: ZoneInfo
    is_fixed: bool  # neither minute nor hour starts with a star

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Nominal times later than `moment`, in UTC, in order; ends where none is in sight."""
        day = moment.astimezone(self.zone).date() - _DAY
        empty_days = 0
        while empty_days < SEARCH_DAYS:
            instants = [instant for instant in self._of_day(day) if instant > moment]
            yield from instants
            empty_days = 0 if instants else empty_days + 1
            if day > date.max - 2 * _DAY:
                return
            day += _DAY

    def next_after(self, moment: datetime) -> datetime | None:
        """The first nominal time later than `moment`."""
        return next(self.after(moment), None)

    def latest(self, *, after: datetime, until: datetime) -> datetime | None:
        """The last nominal time later than `after` and not later than `until`."""
        first = after.astimezone(self.zone).date() - _DAY
        day = until.astimezone(self.zone).date() + _DAY
        while day >= first:
            instants = [instant for instant in self._of_day(day) if after < instant <= until]
            if instants:
                return instants[-1]
            day -= _DAY
        return None

    def _of_day(self, day: date) -> list[datetime]:
        """The instants at which this fires on the local date `day`."""
        if day.month not in self.spec.months or not self.spec.match_day(day):
            return []
        instants: set[datetime] = set()
        for hour in self.spec.hours:
            for minute in self.spec.minutes:
                instants.update(self._instants(datetime.combine(day, time(hour, minute))))
        return sorted(instants)

    def _instants(self, wall: datetime) -> tuple[datetime, ...]:
        """The instants at which clocks in this zone show `wall`: none, one or two."""
        first, second = (
            wall.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1)
        )
        if first == second:
            return (first,)
        if first < second:  # the clock shows it twice
            return (first,) if self.is_fixed else (first, second)
        if not self.is_fixed:  # the clock skips it
            return ()
        while first > second:
            wall += _MINUTE
            first, second = (
                wall.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1)
            )
        return (first,)


def validate(cron: str, timezone: str, *, now: datetime | None = None) -> list[datetime]:
    """The next five nominal times; InvalidSchedule names the field that is wrong."""
    parsed = parse(cron, timezone)
    upcoming = parsed.after(now or datetime.now(UTC))
    times = [moment for moment, _ in zip(upcoming, range(5), strict=False)]
    if not times:
        raise _invalid(
            field="cron",
            problem=f"{cron!r} never comes round",
            remedy="Choose a date that exists.",
        )
    return times


@lru_cache(maxsize=4096)
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
    is_fixed = not (fields[0].startswith("*") or fields[1].startswith("*"))
    return Cron(
        expression=expression,
        timezone=timezone,
        spec=spec,
        zone=ZoneInfo(timezone),
        is_fixed=is_fixed,
    )


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    """Names that are files of the time zone database; anything else never becomes a path."""
    return frozenset(available_timezones())


def _invalid(*, field: str, problem: str, remedy: str) -> InvalidSchedule:
    return InvalidSchedule(f"{field}: {problem}.", field=field, remedy=remedy)
