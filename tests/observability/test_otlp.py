"""Traces, metrics and logs at a real OTLP receiver, from real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.observability.receiver import Receiver, plain

if TYPE_CHECKING:
    from pathlib import Path

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = CALLER[:-2] + "00"


def speak(
    tmp_path: Path, url: str, service: str, *parent: str, **more: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        "PYTHONPATH": ".",
        "PATH": os.environ["PATH"],
        "RELAIS_DATA_DIR": str(tmp_path),
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
    }
    return subprocess.run(
        [sys.executable, "-m", "tests.observability.speaker", service, *parent],
        env=environment | more,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Receiver, str]:
    """A gateway-like and a worker-like process that continue the caller's trace."""
    with Receiver() as receiver:
        folder = tmp_path_factory.mktemp("data")
        first = speak(folder, receiver.url, "gateway", CALLER)
        second = speak(folder, receiver.url, "worker-bulk", first.stdout.strip())
    return receiver, first.stderr + second.stderr


def test_one_trace_over_two_processes(heard: tuple[Receiver, str]) -> None:
    spans = heard[0].spans()
    assert {span.trace_id.hex() for _, span in spans} == {CALLER[3:35]}
    by_name = {span.name: span for _, span in spans if span.name.endswith("outer")}
    assert by_name["gateway outer"].parent_span_id.hex() == CALLER[36:52]
    assert by_name["worker-bulk outer"].parent_span_id == by_name["gateway outer"].span_id
    inner = [
        span
        for service, span in spans
        if span.name == "smtp.transaction" and service == "relais-worker-bulk"
    ]
    assert [span.parent_span_id for span in inner] == [by_name["worker-bulk outer"].span_id]
    assert {service for service, _ in spans} == {"relais-gateway", "relais-worker-bulk"}
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for _, span in spans)


def test_spans_say_what_is_listed_and_nothing_else(heard: tuple[Receiver, str]) -> None:
    spans = [span for _, span in heard[0].spans()]
    inner = next(span for span in spans if span.name == "smtp.transaction")
    assert plain(inner.attributes) == {"relais.relay": "default", "smtp.response.code": 550}
    assert inner.status.code == 2
    assert inner.status.message == "550 5.1.1 <[address]> unknown; see http://example.org/x?[query]"
    broken = next(span for span in spans if span.name == "broken")
    assert (broken.status.code, broken.status.message) == (2, "ValueError")
    assert b"canary" not in heard[0].raw.replace(b'int("canary@example.org")', b"")


def test_metrics_arrive(heard: tuple[Receiver, str]) -> None:
    found = {(service, metric.name): metric for service, metric in heard[0].metrics()}
    accepted = found["relais-gateway", "relais_jobs_accepted"].sum
    assert accepted.is_monotonic
    assert [(point.as_int, plain(point.attributes)) for point in accepted.data_points] == [
        (3, {"queue": "bulk", "kind": "test.nothing"})
    ]
    (ran,) = found["relais-worker-bulk", "relais_run_seconds"].histogram.data_points
    assert (ran.count, ran.sum) == (1, 0.2)
    assert ran.bucket_counts[list(ran.explicit_bounds).index(0.25)] == 1


def test_logs_arrive_with_the_trace(heard: tuple[Receiver, str]) -> None:
    records: list[tuple[str, Any]] = heard[0].logs()
    failed = [
        record
        for service, record in records
        if record.event_name == "speaker.failed" and service == "relais-gateway"
    ]
    assert len(failed) == 1
    assert failed[0].trace_id.hex() == CALLER[3:35]
    outer = next(span for _, span in heard[0].spans() if span.name == "gateway outer")
    assert failed[0].span_id == outer.span_id
    attributes = plain(failed[0].attributes)
    assert (attributes["queue"], attributes["error"]) == ("bulk", "ValueError")
    assert "canary" not in attributes["traceback"].replace('int("canary@example.org")', "")


def test_the_same_lines_on_stderr_are_as_clean(heard: tuple[Receiver, str]) -> None:
    assert "speaker.failed" in heard[1]
    told = [json.loads(line) for line in heard[1].splitlines()]
    assert [line["error_message"] for line in told] == [
        "invalid literal for int() with base 10: [address]"
    ] * 2
    assert all(
        "canary" not in line["traceback"].replace('int("canary@example.org")', "") for line in told
    )


def test_a_caller_that_does_not_sample_is_obeyed(tmp_path: Path) -> None:
    with Receiver() as receiver:
        said = speak(tmp_path, receiver.url, "gateway", UNSAMPLED)
    assert said.stdout.strip().endswith("-00")
    assert receiver.spans() == []
    assert receiver.logs()


def test_a_share_of_new_traces(tmp_path: Path) -> None:
    with Receiver() as receiver:
        said = speak(
            tmp_path,
            receiver.url,
            "gateway",
            OTEL_TRACES_SAMPLER="parentbased_traceidratio",
            OTEL_TRACES_SAMPLER_ARG="0",
        )
    assert said.stdout.strip().endswith("-00")
    assert receiver.spans() == []


def test_an_endpoint_that_is_not_there_costs_five_seconds_at_most(tmp_path: Path) -> None:
    began = time.monotonic()
    said = speak(tmp_path, "http://127.0.0.1:1", "gateway", CALLER)
    assert time.monotonic() - began < 12  # imports included
    assert said.stdout.startswith(CALLER[:35])


def instrumented(tmp_path: Path, receiver: Receiver, **more: str) -> dict[str, Any]:
    """What a kind with OpenTelemetry's own API inside sees; by name what arrived."""
    speak(tmp_path, receiver.url, "worker-bulk", CALLER, RELAIS_TEST_INSTRUMENTED="1", **more)
    return {span.name: span for _, span in receiver.spans()}


def test_a_kind_that_is_instrumented_stays_in_the_trace(tmp_path: Path) -> None:
    with Receiver() as receiver:
        spans = instrumented(tmp_path, receiver)
    outer, theirs, ours = spans["worker-bulk outer"], spans["theirs"], spans["ours below theirs"]
    assert theirs.trace_id.hex() == CALLER[3:35]
    assert theirs.parent_span_id == outer.span_id
    assert ours.parent_span_id == theirs.span_id
    (record,) = [record for _, record in receiver.logs() if record.event_name == "speaker.theirs"]
    assert record.span_id == theirs.span_id


def test_the_usual_variables_say_who_exports(tmp_path: Path) -> None:
    with Receiver() as receiver:
        instrumented(
            tmp_path,
            receiver,
            OTEL_SERVICE_NAME="mailroom",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test,service.namespace=shop",
        )
    assert {service for service, _ in receiver.spans()} == {"mailroom"}
    resources = [
        plain(part.resource.attributes)
        for path, message in receiver.requests
        if path == "/v1/traces"
        for part in message.resource_spans
    ]
    assert all(found["deployment.environment"] == "test" for found in resources)
    assert all(found["service.namespace"] == "shop" for found in resources)


@pytest.mark.parametrize("sampler", ["always_off", "parentbased_always_off"])
def test_a_sampler_that_takes_nothing_is_obeyed(tmp_path: Path, sampler: str) -> None:
    with Receiver() as receiver:
        said = speak(tmp_path, receiver.url, "gateway", OTEL_TRACES_SAMPLER=sampler)
    assert said.stdout.strip().endswith("-00")
    assert receiver.spans() == []
    assert receiver.metrics()


def test_only_the_signals_that_are_asked_for_are_exported(tmp_path: Path) -> None:
    with Receiver() as receiver:
        speak(
            tmp_path, "", "gateway", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{receiver.url}/v1/traces"
        )
        assert {path for path, _ in receiver.requests} == {"/v1/traces"}
        speak(tmp_path, receiver.url, "gateway", OTEL_TRACES_EXPORTER="none")
        assert {path for path, _ in receiver.requests[1:]} == {"/v1/metrics", "/v1/logs"}


def test_buckets_come_without_extremes_that_nobody_knows(heard: tuple[Receiver, str]) -> None:
    found = {metric.name: metric for _, metric in heard[0].metrics()}
    (ran,) = found["relais_run_seconds"].histogram.data_points
    assert not ran.HasField("min")
    assert not ran.HasField("max")
