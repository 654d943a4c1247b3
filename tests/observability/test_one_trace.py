"""One mail through the real processes: one trace, and nothing personal in anything they show."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import signal
import socket
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis

from ledger import api_keys, database
from runtime.settings import Settings
from tests import launcher, services
from tests.observability.receiver import Receiver, plain
from tests.waiting import block_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(180)
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PERSONAL = ("canary-address-7f3a", "canary-subject-7f3a", "canary-body-7f3a", "canary-query-7f3a")
REDIS_DATABASE = 42


@dataclass
class Stack:
    """Everything that runs, and where it says what."""

    folder: Path
    environment: dict[str, str]
    receiver: Receiver
    inbox_port: int
    gateway_port: int
    key: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *words: str) -> None:
        out, log = self.folder / f"{name}.out", self.folder / f"{name}.log"
        self.processes[name] = launcher.start(*words, env=self.environment, log=log, out=out)

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for name, process in self.processes.items():
            assert process.wait(timeout=40) == 0, f"{name}: {self.said(name)[-2000:]}"

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8")

    def span(self, name: str, **attributes: Any) -> Any:
        for _, span in self.receiver.spans():
            if span.name == name and attributes.items() <= plain(span.attributes).items():
                return span
        return None


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Gateway, workers, beat and inbox, all exporting to one receiver; one mail went through."""
    folder = Path(tempfile.mkdtemp(prefix="relais-traced-"))
    gateway_port, inbox_http, inbox_smtp = free_ports(3)
    redis_url = services.redis_url(REDIS_DATABASE)
    with services.fresh_database() as database_url, Receiver() as receiver:
        environment = {
            **launcher.environment(),
            "RELAIS_DATABASE_URL": database_url,
            "RELAIS_REDIS_URL": redis_url,
            "RELAIS_DATA_DIR": str(folder / "data"),
            "RELAIS_SMTP_URL": f"smtp://127.0.0.1:{inbox_smtp}",
            "RELAIS_GATEWAY_PORT": str(gateway_port),
            "RELAIS_CANARY_S": "1",
            "RELAIS_LOG_LEVEL": "DEBUG",
            "RELAIS_CALLBACK_SECRET": "whsec_" + base64.b64encode(b"x" * 32).decode(),
            "RELAIS_OUTBOUND_ALLOW": f"127.0.0.1:{inbox_http}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }
        stack = Stack(folder, environment, receiver, inbox_http, gateway_port)
        try:
            stack.key = make_key(database_url)
            stack.start(
                "inbox",
                "ops.inbox",
                f"--data-dir={folder / 'inbox'}",
                f"--smtp-port={inbox_smtp}",
                f"--http-port={inbox_http}",
            )
            stack.start("gateway", "gateway")
            for queue in ("critical", "callback"):
                stack.start(queue, "workers", queue)
            stack.start("beat", "workers.beat")
            block_until(
                lambda: answers(f"http://127.0.0.1:{gateway_port}/health/live"), what="the gateway"
            )
            block_until(lambda: answers(f"http://127.0.0.1:{inbox_http}/health"), what="the inbox")
            for name in stack.processes:
                assert stack.processes[name].poll() is None, stack.said(name)[-2000:]
            send_one(stack)
            yield stack
        except AssertionError as error:
            for name in stack.processes:
                error.add_note(f"{name}: {stack.said(name)[-1500:]}")
            raise
        finally:
            for process in stack.processes.values():
                if process.poll() is None:
                    process.kill()
                process.wait()
            shutil.rmtree(folder, ignore_errors=True)


def make_key(database_url: str) -> str:
    async def make() -> str:
        engine = database.engine(Settings.model_validate({"database_url": database_url}))
        async with engine.begin() as connection:
            made = await api_keys.create(connection, tenant="default", name="traced", role="admin")
        await engine.dispose()
        return made.key

    return asyncio.run(make())


def send_one(stack: Stack) -> None:
    """Two mails with a callback each: one arrives, one is refused by the relay."""
    jobs = []
    with httpx.Client(
        base_url=f"http://127.0.0.1:{stack.gateway_port}",
        headers={"authorization": f"Bearer {stack.key}"},
        timeout=60,
        trust_env=False,
    ) as client:
        for recipient in (f"{PERSONAL[0]}@example.org", f"refuse+{PERSONAL[0]}@example.org"):
            answer = client.post(
                "/api/v1/jobs",
                headers={"traceparent": CALLER},
                json={
                    "kind": "email.send",
                    "queue": "critical",
                    "payload": {
                        "from": "Relais <hello@example.org>",
                        "to": [recipient],
                        "subject": PERSONAL[1],
                        "text": PERSONAL[2],
                    },
                    "callback_url": f"http://127.0.0.1:{stack.inbox_port}/callbacks/done?token={PERSONAL[3]}",
                },
            )
            assert answer.status_code == 202, answer.text
            assert answer.json()["trace_id"] == CALLER[3:35]
            jobs.append(answer.json()["id"])
        states = [client.get(f"/api/v1/jobs/{job}?wait=30").json()["state"] for job in jobs]
        assert states == ["succeeded", "failed"]
    block_until(lambda: len(callbacks(stack)) == 2, what="both callbacks")
    block_until(lambda: whole(trace(stack)), what="every span of both mails")
    block_until(lambda: stack.span("run relais.canary"), what="a canary's span")


def trace(stack: Stack) -> list[tuple[str, Any]]:
    """(service, span) of everything that the caller's request led to, as far as it came."""
    return [
        (service, span)
        for service, span in stack.receiver.spans()
        if span.trace_id.hex() == CALLER[3:35]
    ]


def whole(mine: list[tuple[str, Any]]) -> bool:
    """Every process exports in batches, at its own times: a child often comes before its parent."""
    known = {span.span_id.hex() for _, span in mine} | {CALLER[36:52]}
    names = Counter(span.name for _, span in mine)
    return names["smtp.transaction"] == names["callback POST"] == 2 and all(
        span.parent_span_id.hex() in known for _, span in mine
    )


def callbacks(stack: Stack) -> list[dict[str, Any]]:
    found = httpx.get(f"http://127.0.0.1:{stack.inbox_port}/callbacks/done", trust_env=False).json()
    listed: list[dict[str, Any]] = (
        found
        if isinstance(found, list)
        else next(value for value in found.values() if isinstance(value, list))
    )
    return listed


def test_the_trace_goes_from_the_caller_to_the_callback(stack: Stack) -> None:
    mine = trace(stack)
    by_id = {span.span_id: span for _, span in mine}
    services_seen = {service for service, _ in mine}
    assert {"relais-gateway", "relais-worker-critical", "relais-worker-callback"} <= services_seen

    def ancestry(span: Any) -> list[str]:
        names = [span.name]
        while span.parent_span_id in by_id:
            span = by_id[span.parent_span_id]
            names.append(span.name)
        assert span.parent_span_id.hex() == CALLER[36:52], names
        return names

    smtp = [ancestry(span) for _, span in mine if span.name == "smtp.transaction"]
    assert smtp
    assert all(names[1] == "run email.send" and len(names) == 3 for names in smtp)
    posts = [ancestry(span) for _, span in mine if span.name == "callback POST"]
    assert posts
    assert all("run http.callback" in names and len(names) >= 3 for names in posts)


def test_the_callback_carries_the_trace_on(stack: Stack) -> None:
    posts = {
        span.span_id.hex() for _, span in stack.receiver.spans() if span.name == "callback POST"
    }
    for stored in callbacks(stack):
        headers = {name.lower(): value for name, value in dict(stored["headers"]).items()}
        assert headers["traceparent"][3:35] == CALLER[3:35]
        assert headers["traceparent"][36:52] in posts


def test_a_canary_has_a_trace_from_its_tick_on(stack: Stack) -> None:
    run = stack.span("run relais.canary")
    tick = block_until(
        lambda: next(
            (s for _, s in stack.receiver.spans() if s.span_id == run.parent_span_id), None
        ),
        what="the tick's span",
    )
    assert tick.name == "schedule.tick"


def test_metrics_show_every_process_in_one_scrape(stack: Stack) -> None:
    def scrape() -> str:
        return httpx.get(
            f"http://127.0.0.1:{stack.gateway_port}/metrics",
            headers={"authorization": f"Bearer {stack.key}"},
            trust_env=False,
        ).text

    def shows(sample: str) -> bool:
        return sample in scrape()

    for sample in (
        'relais_jobs_accepted_total{kind="email.send",queue="critical"} 2.0',
        'relais_jobs_finished_total{colour="blue",kind="email.send",outcome="succeeded",queue="critical"} 1.0',
        'relais_emails_total{outcome="sent",relay="default"} 1.0',
        'relais_run_seconds_count{kind="email.send",queue="critical"} 2.0',
        'relais_schedule_ticks_total{result="fired",scope="system"}',
        "relais_claim_seconds_count",
        'relais_queue_wait_seconds_count{queue="critical"}',
        "relais_http_requests_total{",
        "relais_doorbells_total{",
    ):
        block_until(partial(shows, sample), what=sample, within_s=10)
    block_until(
        lambda: any(
            metric.name == "relais_jobs_finished" and service == "relais-worker-critical"
            for service, metric in stack.receiver.metrics()
        ),
        what="metrics over OTLP",
    )


def test_z_nothing_personal_anywhere(stack: Stack) -> None:
    """Last: everything is ended, so that everything has been said."""
    client = redis.Redis.from_url(stack.environment["RELAIS_REDIS_URL"])
    kept = [client.dump(key) or b"" for key in client.scan_iter(count=1000)]
    client.close()
    scrape = httpx.get(
        f"http://127.0.0.1:{stack.gateway_port}/metrics",
        headers={"authorization": f"Bearer {stack.key}"},
        trust_env=False,
    ).content
    stack.stop()
    shown: dict[str, bytes] = {
        f"log of {name}": stack.said(name).encode() for name in stack.processes
    }
    printed = b"".join(file.read_bytes() for file in stack.folder.glob("*.out"))
    shown |= {
        "stdout": printed + b".",
        "OTLP": stack.receiver.raw,
        "metrics": scrape,
        "Redis": b"".join(kept),
    }
    for where, content in shown.items():
        assert content, where
        for word in (*PERSONAL, stack.key, stack.environment["RELAIS_CALLBACK_SECRET"]):
            assert word.encode() not in content, f"{word} in {where}"
    for name in stack.processes:
        for line in stack.said(name).splitlines():
            json.loads(line)
