"""Which days an expression matches, as bits of one integer for each kind of year."""

from __future__ import annotations

import calendar
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cronsim import CronSim

YEARS_MAX = (
    50  # 29 February on a Sunday comes after 40 years across 2100; anything later never matches
)


class MatchingDays:
    """The days of one expression.

    A year has one of 14 calendars: leap or not, and seven days to start on. Each is computed
    when it is first needed.
    """

    __slots__ = ("_by_calendar", "_spec")

    def __init__(self, spec: CronSim) -> None:
        self._spec = spec
        self._by_calendar: dict[tuple[bool, int], int] = {}

    def first_from(self, day: date) -> date | None:
        """The first day that matches and is not before `day`; None if there is none."""
        number = day.timetuple().tm_yday - 1
        for year in range(day.year, min(day.year + YEARS_MAX, date.max.year)):
            found = next_bit(self._of(year), number)
            if found is not None:
                return date.fromordinal(date(year, 1, 1).toordinal() + found)
            number = 0
        return None

    def _of(self, year: int) -> int:
        first = date(year, 1, 1)
        key = (calendar.isleap(year), first.weekday())
        if key not in self._by_calendar:
            days = map(date.fromordinal, range(first.toordinal(), first.toordinal() + 365 + key[0]))
            spec = self._spec
            self._by_calendar[key] = bits_of(
                number
                for number, day in enumerate(days)
                if day.month in spec.months and spec.match_day(day)
            )
        return self._by_calendar[key]


def bits_of(numbers: Iterable[int]) -> int:
    """An integer with these bits set."""
    bits = 0
    for number in numbers:
        bits |= 1 << number
    return bits


def next_bit(bits: int, start: int) -> int | None:
    """The lowest bit of `bits` that is set and not below `start`."""
    rest = bits >> start
    return start + (rest & -rest).bit_length() - 1 if rest else None
