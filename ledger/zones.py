"""Spans of time in which the clocks of a zone have one constant offset from UTC.

zoneinfo does not say when clocks change, so each year is sampled once, a day at a time, and a
change between two samples that differ is found by bisection. No zone changes twice within a day
(the closest two in the time zone database are four days apart).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Span:
    """From `begins` until just before `ends` clocks show UTC + `offset`; within one year of UTC.

    Neighbouring spans across a year's end may have the same offset.
    """

    begins: datetime
    ends: datetime
    offset: timedelta


def span_at(zone: str, moment: datetime) -> Span:
    """The span of `zone` that `moment` (in UTC) lies in."""
    begins, spans = _spans(zone, moment.year)
    return spans[bisect_right(begins, moment) - 1]


@lru_cache(maxsize=4096)
def _spans(zone: str, year: int) -> tuple[list[datetime], list[Span]]:
    """The spans of a year, and when each of them begins."""
    info = ZoneInfo(zone)
    start, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    begins, offsets = [start], [_offset(info, start)]
    asked = [*(start + number * _DAY for number in range((end - start).days)), end - _SECOND]
    for early, late in pairwise(asked):
        if (offset := _offset(info, late)) != offsets[-1]:
            begins.append(_first_second(info, offset, after=early, until=late))
            offsets.append(offset)
    spans = [Span(*each) for each in zip(begins, [*begins[1:], end], offsets, strict=True)]
    return begins, spans


def _first_second(
    info: ZoneInfo, offset: timedelta, *, after: datetime, until: datetime
) -> datetime:
    """When clocks changed to `offset`, which they have at `until` and not at `after`."""
    early, late = 0, int((until - after).total_seconds())
    while late - early > 1:
        middle = (early + late) // 2
        if _offset(info, after + middle * _SECOND) == offset:
            late = middle
        else:
            early = middle
    return after + late * _SECOND


def _offset(info: ZoneInfo, moment: datetime) -> timedelta:
    return moment.astimezone(info).replace(tzinfo=UTC) - moment
