"""Ids without an exporter: made, continued, passed on, cheap."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import exporting, logs, telemetry

if TYPE_CHECKING:
    from runtime.settings import Settings

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (CALLER, CALLER),
        (CALLER[:-2] + "00", CALLER[:-2] + "00"),
        (CALLER[:-2] + "ff", CALLER),  # flags we do not know are not passed on
        ("cc" + CALLER[2:] + "-what-the-future-brings", CALLER),
        (CALLER + "-more", None),  # version 00 has exactly four fields
        ("ff" + CALLER[2:], None),
        (CALLER.upper(), None),
        ("00-" + "0" * 32 + CALLER[35:], None),
        (CALLER[:36] + "0" * 16 + "-01", None),
        (CALLER + "\n", None),
        ("", None),
        (None, None),
    ],
)
def test_traceparents_are_read_as_w3c_says(given_: str | None, expected: str | None) -> None:
    assert telemetry.parse(given_) == expected


@given(st.text())
def test_nonsense_is_no_traceparent(text: str) -> None:
    assert telemetry.parse(text) is None


def test_new_traceparents_are_valid_and_new() -> None:
    made = {telemetry.span("new").traceparent for _ in range(1000)}
    assert len({telemetry.trace_id_of(traceparent) for traceparent in made}) == 1000
    assert all(telemetry.parse(traceparent) == traceparent for traceparent in made)


def test_a_span_continues_its_parent_and_its_children_continue_it() -> None:
    assert telemetry.current_traceparent() is None
    with telemetry.span("outer", parent=CALLER) as outer:
        assert outer.trace_id == CALLER[3:35]
        assert outer.traceparent != CALLER
        with telemetry.span("inner") as inner:
            assert (inner.trace_id, inner.parent_span_id) == (outer.trace_id, outer.span_id)
            assert telemetry.current_traceparent() == inner.traceparent
        assert telemetry.current_traceparent() == outer.traceparent
        with telemetry.span("elsewhere", parent="rubbish") as elsewhere:
            assert elsewhere.trace_id == outer.trace_id
    assert telemetry.current_traceparent() is None
    with telemetry.span("alone") as alone:
        assert re.fullmatch(r"[0-9a-f]{32}", alone.trace_id)
        assert alone.trace_id != CALLER[3:35]


async def test_tasks_do_not_mix_their_spans() -> None:
    started = asyncio.Barrier(20)

    async def work() -> tuple[str, str]:
        with telemetry.span("one") as one:
            await started.wait()
            with telemetry.span("two") as two:
                await asyncio.sleep(0)
                return one.trace_id, two.trace_id

    pairs = await asyncio.gather(*(work() for _ in range(20)))
    assert all(one == two for one, two in pairs)
    assert len({one for one, _ in pairs}) == 20


def test_log_lines_carry_the_ids(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    try:
        logs.configure(service="test", colour="blue")
        exporting.start("test", settings)
        with telemetry.span("around") as around:
            logs.logger("x").info("test.line")
        logs.logger("x").info("test.outside")
    finally:
        logging.getLogger().handlers[:] = before
    inside, outside = map(json.loads, capsys.readouterr().err.splitlines())
    assert (inside["trace_id"], inside["span_id"]) == (around.trace_id, around.span_id)
    assert "trace_id" not in outside


def test_without_an_exporter_a_span_costs_next_to_nothing() -> None:
    def once() -> float:
        began = time.thread_time()
        for _ in range(2000):
            with telemetry.span(
                "run x", kind="consumer", parent=CALLER, attributes={"queue": "bulk"}
            ):
                pass
        return (time.thread_time() - began) / 2000

    assert min(once() for _ in range(10)) < 5e-6


def test_the_sdk_is_not_even_imported(settings: Settings) -> None:
    import subprocess
    import sys

    code = "import sys, gateway, runtime.telemetry, runtime.metrics, runtime.logs; sys.exit('opentelemetry' in sys.modules or 'prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
