"""A tally and some gauges in Prometheus' text format."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from runtime import metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from runtime.metrics import Gauge
    from runtime.tally import Tally


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Snapshot(Collector):
    def __init__(self, tally: Tally, gauges: Iterable[Gauge]) -> None:
        self._tally = tally
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for metric in metrics.METRICS:
            if metric.bounds:
                histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                for (name, labels), cells in sorted(self._tally.histograms.items()):
                    if name == metric.name and len(cells) == len(metric.bounds) + 2:
                        bounds = (*map(str, map(float, metric.bounds)), "+Inf")
                        sums = accumulate(cells[:-1])
                        histogram.add_metric(
                            labels, list(zip(bounds, sums, strict=True)), cells[-1]
                        )
                yield histogram
            else:
                counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
                for (name, labels), count in sorted(self._tally.counts.items()):
                    if name == metric.name:
                        counter.add_metric(labels, count)
                yield counter
        yield from self._families()

    def _families(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for gauge in self._gauges:
            family = families.get(gauge.name)
            if family is None:
                family = families[gauge.name] = GaugeMetricFamily(
                    gauge.name, gauge.help, labels=list(gauge.labels)
                )
            family.add_metric(list(gauge.labels.values()), gauge.value)
        yield from families.values()


def render(gauges: Iterable[Gauge] = ()) -> bytes:
    """Everything that this colour has counted, and `gauges`, as a scrape answers them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(metrics.total(), gauges))
    return generate_latest(registry)
