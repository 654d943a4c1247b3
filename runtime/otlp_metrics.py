"""A tally as OTLP metrics: cumulative sums and histograms with explicit bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from runtime import metrics

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from runtime.tally import Metric as Tallied
    from runtime.tally import Tally

SCOPE = InstrumentationScope("relais")


def metrics_data(
    tally: Tally, *, resource: Resource, began_ns: int, now_ns: int
) -> MetricsData | None:
    """`tally` as counted since `began_ns`, or None where nothing was counted yet."""
    exported = [
        Metric(
            name=metric.name,
            description=metric.help,
            unit="s" if metric.bounds else "1",
            data=_histogram(metric, tally, began_ns=began_ns, now_ns=now_ns)
            if metric.bounds
            else _sum(metric, tally, began_ns=began_ns, now_ns=now_ns),
        )
        for metric in metrics.METRICS
    ]
    exported = [metric for metric in exported if metric.data.data_points]
    if not exported:
        return None
    scope = ScopeMetrics(scope=SCOPE, metrics=exported, schema_url="")
    return MetricsData([ResourceMetrics(resource=resource, scope_metrics=[scope], schema_url="")])


def _sum(metric: Tallied, tally: Tally, *, began_ns: int, now_ns: int) -> Sum:
    return Sum(
        data_points=[
            NumberDataPoint(
                attributes=dict(zip(metric.labels, labels, strict=True)),
                start_time_unix_nano=began_ns,
                time_unix_nano=now_ns,
                value=count,
            )
            for (name, labels), count in tally.counts.items()
            if name == metric.name
        ],
        aggregation_temporality=AggregationTemporality.CUMULATIVE,
        is_monotonic=True,
    )


def _histogram(metric: Tallied, tally: Tally, *, began_ns: int, now_ns: int) -> Histogram:
    return Histogram(
        data_points=[
            HistogramDataPoint(
                attributes=dict(zip(metric.labels, labels, strict=True)),
                start_time_unix_nano=began_ns,
                time_unix_nano=now_ns,
                count=int(sum(cells[:-1])),
                sum=cells[-1],
                bucket_counts=[int(cell) for cell in cells[:-1]],
                explicit_bounds=metric.bounds,
                # Unknown: tallies keep buckets. OTLP may leave both out, the SDK's type may not.
                min=None,  # type: ignore[arg-type]
                max=None,  # type: ignore[arg-type]
            )
            for (name, labels), cells in tally.histograms.items()
            if name == metric.name
        ],
        aggregation_temporality=AggregationTemporality.CUMULATIVE,
    )
