"""A process that does what a service does: spans, metrics, logs. Prints its traceparent.

python -m tests.observability.speaker SERVICE [TRACEPARENT]
"""

from __future__ import annotations

import os
import sys

from runtime import exporting, logs, metrics, telemetry
from runtime import settings as runtime_settings


def be_instrumented(log: logs.ActionLogger) -> None:
    """What a user's kind does that knows OpenTelemetry alone."""
    from opentelemetry import trace

    with trace.get_tracer("theirs").start_as_current_span("theirs"):
        log.info("speaker.theirs")
        with telemetry.span("ours below theirs"):
            pass


def main(service: str, parent: str | None) -> None:
    settings = runtime_settings.load()
    logs.configure(service=service, colour=settings.colour)
    exporting.start(service, settings)
    metrics.configure(settings, service=service)
    log = logs.logger("speaker")
    with telemetry.span(
        f"{service} outer", kind="server", parent=parent, attributes={"queue": "bulk"}
    ) as outer:
        with telemetry.span(
            "smtp.transaction", kind="client", attributes={"relay": "default"}
        ) as inner:
            # None of these may arrive: not on the list, or an address in a reason.
            inner.set(recipient="canary@example.org", subject="canary-subject", reply_code=550)
            inner.fail(
                "550 5.1.1 <canary@example.org> unknown; see http://example.org/x?token=canary-token"
            )
        try:
            with telemetry.span("broken"):
                int("canary@example.org")
        except ValueError as error:
            log.error("speaker.failed", exc_info=error, queue="bulk")
        if os.environ.get("RELAIS_TEST_INSTRUMENTED"):
            be_instrumented(log)
        metrics.accepted(queue="bulk", kind="test.nothing", count=3)
        metrics.ran(queue="bulk", kind="test.nothing", seconds=0.2)
        print(outer.traceparent, flush=True)
    metrics.shutdown()
    exporting.stop()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
