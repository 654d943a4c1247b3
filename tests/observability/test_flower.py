"""Flower as a real process: a password always, jobs by kind and id, nothing to break."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from celery import Celery
from pydantic import SecretStr
from redis import Redis

from doorbell.broker import celery_app
from ops.stack import Valkey
from runtime.settings import Settings
from tests import services
from tests.ledger import jobs
from tests.waiting import block_until, wait_for
from tests.workers.process import WorkerProcess
from workers.events import TaskEvents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

PASSWORD = "pass:word"
AUTH = ("relais", PASSWORD)


def start(redis_url: str, port: int, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "workers.flower"],
        env={
            **os.environ,
            "PYTHONPATH": ".",
            "RELAIS_REDIS_URL": redis_url,
            "RELAIS_FLOWER_PORT": str(port),
            "RELAIS_FLOWER_PASSWORD": PASSWORD,
            **more,
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthcheck", trust_env=False).text == "OK"
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def flower() -> Iterator[tuple[str, subprocess.Popen[str], str]]:
    redis_url = services.redis_url(41)
    port = free_port()
    process = start(redis_url, port)
    url = f"http://127.0.0.1:{port}"
    try:
        block_until(lambda: is_healthy(url))
        yield url, process, redis_url
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 0, errors
        assert PASSWORD not in errors


def test_nothing_but_health_without_the_password(
    flower: tuple[str, subprocess.Popen[str], str],
) -> None:
    url = flower[0]
    for path in (
        "/",
        "/workers",
        "/tasks",
        "/broker",
        "/api/workers",
        "/api/tasks",
        "/api/queues/length",
        "/metrics",
        "/tasks/datatable",
        "/worker/x",
        "/task/x",
        "/api/task/info/x",
    ):
        assert httpx.get(url + path, trust_env=False).status_code == 401, path
        assert (
            httpx.get(url + path, auth=("relais", "wrong"), trust_env=False).status_code == 401
        ), path
    assert httpx.get(url + "/", auth=AUTH, trust_env=False).status_code == 200


def test_the_password_is_on_no_command_line(flower: tuple[str, subprocess.Popen[str], str]) -> None:
    assert PASSWORD.encode() not in Path(f"/proc/{flower[1].pid}/cmdline").read_bytes()


def test_it_only_looks(flower: tuple[str, subprocess.Popen[str], str]) -> None:
    for path in (
        "/api/worker/shutdown/x",
        "/api/task/revoke/x",
        "/api/task/send-task/email.send",
        "/api/task/async-apply/x",
    ):
        assert httpx.post(
            flower[0] + path, auth=AUTH, json={"args": []}, trust_env=False
        ).status_code in {403, 405}, path


def tell(redis_url: str, job_id: str) -> None:
    """What a worker says of a job that it found in the ledger by itself."""
    app = celery_app(Settings.model_validate({"redis_url": redis_url}))
    with (
        app.connection_for_write() as connection,
        app.events.Dispatcher(connection, hostname="bulk@test") as events,
    ):
        events.send(
            "task-received", uuid=job_id, name="email.send", args="", kwargs="", retries=2, eta=None
        )
        events.send("task-started", uuid=job_id)
        events.send("task-succeeded", uuid=job_id, result="", runtime=0.1)


def shows(url: str, job_id: str) -> bool:
    found = httpx.get(f"{url}/api/tasks", auth=AUTH, trust_env=False).json()
    return job_id in found and (found[job_id]["state"], found[job_id]["name"]) == (
        "SUCCESS",
        "email.send",
    )


def told_and_shown(url: str, redis_url: str, job_id: str) -> bool:
    tell(redis_url, job_id)
    return shows(url, job_id)


def test_a_job_that_no_doorbell_brought_is_seen(
    flower: tuple[str, subprocess.Popen[str], str],
) -> None:
    url, _, redis_url = flower
    block_until(lambda: told_and_shown(url, redis_url, "0199-job"))


def test_it_sees_again_soon_after_redis_was_away() -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o711)
    with Valkey(folder / "valkey") as valkey:
        port = free_port()
        process = start(valkey.url, port)
        url = f"http://127.0.0.1:{port}"
        try:
            block_until(lambda: is_healthy(url))
            block_until(lambda: told_and_shown(url, valkey.url, "before"))
            valkey.stop("immediate")
            assert is_healthy(url)
            valkey.start()
            block_until(lambda: told_and_shown(url, valkey.url, "after"), within_s=10)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=15)
    shutil.rmtree(folder, ignore_errors=True)


EVENT = {
    "type": "task-started",
    "uuid": "forged",
    "hostname": "bulk@forged",
    "clock": 7,
    "utcoffset": 0,
    "pid": 1,
    "timestamp": 1_700_000_000.0,
}
WRONG: list[Any] = [None, True, -1, 1e308, float("nan"), "", "x", "\x00", [], {}, {"x": {}}]


def forged_events() -> Iterator[str]:
    """Everything that is no event, as it would stand in Redis."""
    yield from ("garbage", "null", "[]", "{}", "[" * 100_000, '{"body": 1, "properties": []}')
    for event in (*WRONG, [WRONG], *({**EVENT, f: value} for f in EVENT for value in WRONG)):
        yield message(json.dumps(event).encode())
        yield message(json.dumps([event, event]).encode())
    yield message(b"\x80\x04K\x01.", "application/x-python-serialize")
    yield message(b"\xff\xfe")
    yield message(b"x: y", "application/x-yaml")


def message(body: bytes, content_type: str = "application/json") -> str:
    delivery = {"exchange": "celeryev", "routing_key": "task.multi"}
    properties = {"delivery_tag": "x", "body_encoding": "base64", "delivery_info": delivery}
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": content_type,
            "content-encoding": "utf-8",
            "headers": {"hostname": "bulk@forged"},
            "properties": properties,
        }
    )


def test_no_forged_event_blinds_it(flower: tuple[str, subprocess.Popen[str], str]) -> None:
    url, process, redis_url = flower
    block_until(lambda: told_and_shown(url, redis_url, "before-the-forged"))
    with Redis.from_url(redis_url) as redis:
        forged = list(forged_events())
        assert len(forged) > 150
        for number, event in enumerate(forged):
            heard = redis.publish("/41.celeryev/task.multi", event)
            assert heard or number < 10, "Flower listens to this channel"
            block_until(lambda: redis.pubsub_numpat() > 0)
    block_until(lambda: told_and_shown(url, redis_url, "after-the-forged"), within_s=5)
    for page in ("/", "/workers", "/tasks", "/api/tasks", "/api/workers", "/metrics"):
        assert httpx.get(url + page, auth=AUTH, trust_env=False).status_code == 200, page
    assert process.poll() is None


def test_a_workers_page_is_the_list_of_workers(
    flower: tuple[str, subprocess.Popen[str], str],
) -> None:
    answer = httpx.get(f"{flower[0]}/worker/bulk@x", auth=AUTH, trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (302, "/workers")


async def test_jobs_of_a_real_worker_show_their_true_states(
    flower: tuple[str, subprocess.Popen[str], str],
    database: AsyncEngine,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """No doorbell is rung: the worker finds the jobs in the ledger, and Flower learns of them."""
    url, _, redis_url = flower
    wanted = {"ok": "SUCCESS", "fail": "FAILURE", "error": "RETRY"}
    ids = {}
    for mode in wanted:
        payload = {"mode": mode, "effects": str(tmp_path / "effects")}
        new = jobs.new_job(
            kind="test.scripted_async", queue="template", payload=payload, max_attempts=20
        )
        await jobs.accept(database, new)
        ids[mode] = str(new.id)
    mine = settings.model_copy(update={"redis_url": SecretStr(redis_url)})

    def all_are_shown() -> bool:
        found = httpx.get(f"{url}/api/tasks", auth=AUTH, trust_env=False).json()
        shown = {
            mode: (found[job]["name"], found[job]["state"])
            for mode, job in ids.items()
            if job in found
        }
        return shown == {mode: ("test.scripted_async", state) for mode, state in wanted.items()}

    with WorkerProcess(mine):
        await wait_for(all_are_shown, within_s=30)


def test_it_is_small(flower: tuple[str, subprocess.Popen[str], str]) -> None:
    own = [line.split() for line in Path(f"/proc/{flower[1].pid}/status").read_text().splitlines()]
    assert next(int(line[1]) for line in own if line[0] == "RssAnon:") < 75_000


def test_without_a_password_it_does_not_start() -> None:
    process = start("redis://127.0.0.1:1/0", free_port(), RELAIS_FLOWER_PASSWORD="")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.startswith("RELAIS_FLOWER_PASSWORD is not set")


def test_a_password_that_flower_cannot_take_is_a_sentence() -> None:
    process = start("redis://127.0.0.1:1/0", free_port(), RELAIS_FLOWER_PASSWORD="pässword")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "ASCII" in errors


def test_a_taken_port_is_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start("redis://127.0.0.1:1/0", taken.getsockname()[1])
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Traceback" not in errors


def test_it_starts_and_ends_without_redis() -> None:
    port = free_port()
    process = start("redis://127.0.0.1:1/0", port)
    block_until(lambda: is_healthy(f"http://127.0.0.1:{port}"))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=15)
    assert process.returncode == 0


def test_canaries_do_not_drown_the_jobs() -> None:
    events = TaskEvents(Celery(broker="redis://127.0.0.1:1/0"), hostname="bulk@test")
    events.close()  # nothing is sent any more: what would be told stays where it can be read
    for kind in ("relais.canary", "email.send"):
        job: Any = SimpleNamespace(id=kind, kind=kind, queue="bulk", counted=1)
        events.started(job)
        events.ended(job, "succeeded", seconds=0.1)
    assert {fields["uuid"] for _, fields in events._waiting} == {"email.send"}
