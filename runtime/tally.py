"""Counters and histograms of one process, cheap enough to be updated for every job.

A tally is a dictionary from (metric, label values) to numbers; adding to one costs less than
a microsecond. What it looks like to Prometheus or OTLP is decided elsewhere.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field

Key = tuple[str, tuple[str, ...]]  # metric name, label values in the metric's order

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: a counter, or a histogram where `bounds` are given (upper bounds, inclusive)."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


@dataclass(slots=True)
class Tally:
    """Numbers that only grow: counts, and histograms as [count per bucket ..., sum]."""

    counts: dict[Key, float] = field(default_factory=dict)
    histograms: dict[Key, list[float]] = field(default_factory=dict)

    def merge(self, other: Tally) -> None:
        """Add everything in `other`; a histogram whose buckets have changed is left out."""
        for key, count in other.counts.items():
            self.counts[key] = self.counts.get(key, 0) + count
        for key, cells in other.histograms.items():
            mine = self.histograms.get(key)
            if mine is None:
                self.histograms[key] = list(cells)
            elif len(mine) == len(cells):
                self.histograms[key] = [a + b for a, b in zip(mine, cells, strict=True)]


class LiveTally:
    """The tally that this process adds to, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tally = Tally()
        self.changes = 0

    def add(self, metric: Metric, labels: tuple[str, ...], count: float = 1) -> None:
        """Count `count` more."""
        key = (metric.name, labels)
        with self._lock:
            counts = self._tally.counts
            counts[key] = counts.get(key, 0) + count
            self.changes += 1

    def observe(
        self, metric: Metric, labels: tuple[str, ...], value: float, count: int = 1
    ) -> None:
        """Note `count` observations of `value`."""
        bucket = bisect_left(metric.bounds, value)
        key = (metric.name, labels)
        with self._lock:
            cells = self._tally.histograms.get(key)
            if cells is None:
                cells = self._tally.histograms[key] = [0.0] * (len(metric.bounds) + 2)
            cells[bucket] += count
            cells[-1] += value * count
            self.changes += 1

    def copy(self) -> Tally:
        """What was counted so far."""
        with self._lock:
            return Tally(
                counts=dict(self._tally.counts),
                histograms={key: list(cells) for key, cells in self._tally.histograms.items()},
            )
