"""Whether this process exports telemetry, and starting and stopping that."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runtime import logs, telemetry

if TYPE_CHECKING:
    from runtime.otlp import Pipeline
    from runtime.settings import Settings

SIGNALS = ("traces", "metrics", "logs")
SHUTDOWN_S = 5.0
_pipelines: list[Pipeline] = []


def start(service: str, settings: Settings) -> None:
    """Start exporting if an OTLP endpoint is set; call it after any fork, once per process."""
    logs.with_trace_ids(telemetry.current_ids)
    stop()
    if wanted := signals():
        # The SDK costs 25 MB; a process that exports nothing does not pay for it.
        from runtime.otlp import Pipeline  # noqa: PLC0415

        pipeline = Pipeline(service=service, settings=settings, signals=wanted)
        _pipelines.append(pipeline)
        telemetry.use(pipeline.tracer)


def stop() -> None:
    """Send what is still buffered, for at most `SHUTDOWN_S`, and stop exporting."""
    telemetry.use(None)
    while _pipelines:
        _pipelines.pop().shutdown(timeout_s=SHUTDOWN_S)


def signals() -> frozenset[str]:
    """Which of `SIGNALS` the environment asks to be exported, by OpenTelemetry's variables."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return frozenset()
    return frozenset(signal for signal in SIGNALS if _is_wanted(signal.upper()))


def _is_wanted(signal: str) -> bool:
    if os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip().lower() == "none":
        return False
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return any(os.environ.get(name) for name in names)
