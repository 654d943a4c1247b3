"""Whoever can write to Redis can put anything there: no worker ends, obeys, or finds jobs later."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from ops.stack import Valkey
from runtime.settings import Settings
from tests.waiting import wait_for
from tests.workers.conftest import Ledger
from tests.workers.test_broker import Patient, listening

DELIVERY: dict[str, Any] = {
    "delivery_tag": "x",
    "body_encoding": "base64",
    "delivery_info": {"routing_key": "template", "exchange": ""},
}
MESSAGE: dict[str, Any] = {
    "body": base64.b64encode(b'[["x"], {}, {}]').decode(),
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": {"task": "test.scripted_async", "id": "x", "lang": "py"},
    "properties": DELIVERY,
}
WRONG: list[Any] = [None, True, -1, 1e308, "", "x", "\x00", [], [[]], {}, {"x": {}}]


def messages() -> Iterator[bytes]:
    """Everything that is no doorbell; each is one kind."""
    yield from (b"", b"garbage", b"\xff\xfe\x00", b"\x80\x04K\x01.", b"{", b"[" * 100_000, b"1e400")
    yield b"9" * 5_000
    yield b'"\\ud800"'
    yield from (json.dumps(value).encode() for value in WRONG)
    for field in MESSAGE:
        yield json.dumps({k: v for k, v in MESSAGE.items() if k != field}).encode()
        yield from (json.dumps(MESSAGE | {field: value}).encode() for value in WRONG)
    for field in DELIVERY:
        without = {k: v for k, v in DELIVERY.items() if k != field}
        yield json.dumps(MESSAGE | {"properties": without}).encode()
        for value in WRONG:
            yield json.dumps(MESSAGE | {"properties": DELIVERY | {field: value}}).encode()
    for content_type in ("application/x-python-serialize", "application/x-yaml", "x/y", "é"):
        yield json.dumps(MESSAGE | {"content-type": content_type}).encode()
    for encoding in ("binary", "utf-16", "rot13", "no-such"):
        yield json.dumps(MESSAGE | {"content-encoding": encoding}).encode()
    poison = base64.b64encode(pickle.dumps(SystemExit)).decode()
    yield json.dumps(
        MESSAGE | {"body": poison, "content-type": "application/x-python-serialize"}
    ).encode()
    for task in (
        "os.system",
        "celery.chord",
        "celery.backend_cleanup",
        "celery.map",
        "x" * 100_000,
    ):
        yield json.dumps(MESSAGE | {"headers": {"task": task, "id": "x"}}).encode()
    for more in ({"eta": "x"}, {"expires": 1e400}, {"timelimit": ["x"]}, {"retries": "x"}):
        yield json.dumps(MESSAGE | {"headers": MESSAGE["headers"] | more}).encode()


async def _goes_on(worker: Any, patient: Patient, ledger: Ledger, what: str) -> None:
    (job_id,) = await ledger.accept()
    await ledger.reaches(job_id, "succeeded", within_s=2)
    assert worker.process.poll() is None, (what, worker.output[-2000:])


async def test_no_kind_of_message_ends_a_worker_or_costs_it_its_connection(
    settings: Settings, ledger: Ledger, valkey: Valkey
) -> None:
    kinds = list(messages())
    assert len(kinds) >= 120
    async with listening(settings, valkey) as (worker, patient, _):
        connected = int((await patient.redis.info("stats"))["total_connections_received"])
        for message in kinds:
            await patient.say("LPUSH", "template", message)
        await wait_for(lambda: _is_taken(patient), what="all of them are taken")
        await _goes_on(worker, patient, ledger, "messages")
        await wait_for(patient.is_waited_for, what="it listens")
        now = int((await patient.redis.info("stats"))["total_connections_received"])
        assert now - connected <= 2, "a message is no reason to connect anew"
        assert "Traceback" not in worker.output


async def _is_taken(patient: Patient) -> bool:
    return not await patient.redis.llen("template")


CONTROL = [
    {"method": "shutdown", "arguments": {}, "destination": None},
    {"method": "pool_shrink", "arguments": {"n": 1}, "destination": None},
    {"method": "cancel_consumer", "arguments": {"queue": "template"}, "destination": None},
    {"method": "revoke", "arguments": {"task_id": "x", "terminate": True}, "destination": None},
    {"method": ["x"], "arguments": 7},
]


async def test_orders_through_redis_are_not_obeyed(
    settings: Settings, ledger: Ledger, valkey: Valkey
) -> None:
    async with listening(settings, valkey) as (worker, patient, _):
        channels = await patient.redis.execute_command("PUBSUB", "CHANNELS", "*")  # type: ignore[no-untyped-call]
        assert channels == [], "a worker listens to no channel"
        for order in CONTROL:
            message = MESSAGE | {"body": base64.b64encode(json.dumps(order).encode()).decode()}
            for channel in ("/0.celery.pidbox", "0.celery.pidbox", "/0.celeryev/worker.x"):
                await patient.say("PUBLISH", channel, json.dumps(message))
                await patient.say("PUBLISH", channel, "garbage")
            await patient.say("LPUSH", "template", json.dumps(message))
        await _goes_on(worker, patient, ledger, "orders")
        await wait_for(patient.is_waited_for, what="it listens to its own queue")


KEYS = (
    "unacked",
    "unacked_index",
    "unacked_mutex",
    "_kombu.binding.template",
    "_kombu.binding.celery",
    "_kombu.binding.celeryev",
    "_kombu.binding.celery.pidbox",
)


@pytest.mark.parametrize("is_before", [True, False], ids=["before it starts", "while it runs"])
async def test_something_else_under_any_key_of_kombus_changes_nothing(
    settings: Settings, ledger: Ledger, valkey: Valkey, is_before: bool
) -> None:
    async def spoil() -> None:
        for key in KEYS:
            await patient.say("SET", key, "x")

    async with Redis.from_url(valkey.url, single_connection_client=True) as redis:
        patient = Patient(redis, valkey)
        if is_before:
            await spoil()
        async with listening(settings, valkey) as (worker, _, own):
            if not is_before:
                await spoil()
            await _goes_on(worker, patient, ledger, "keys")
            await patient.say("LPUSH", "template", "bell")
            await wait_for(lambda: _is_taken(patient), what="bells are heard")
            assert "Traceback" not in worker.output
            del own
