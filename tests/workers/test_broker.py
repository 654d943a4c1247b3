"""Whatever Redis says or does, a worker goes on: it looks into the ledger, and listens again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from doorbell.ringer import Ringer
from ledger import ids
from ops.stack import Valkey
from runtime.settings import Settings
from tests.waiting import wait_for
from tests.workers.conftest import Ledger
from tests.workers.process import WorkerProcess

SAID = "Trying to re-establish the connection"  # Celery's words for a broker that is away


@dataclass
class Patient:
    """A Redis, and somebody who may still speak to it whatever becomes of it."""

    redis: Redis
    valkey: Valkey
    loading: asyncio.Task[Valkey] | None = None

    async def say(self, *words: Any) -> None:
        await self.redis.execute_command(*words)  # type: ignore[no-untyped-call]

    async def is_waited_for(self) -> bool:
        """Whether somebody waits for a bell."""
        return int((await self.redis.info("clients"))["blocked_clients"]) > 0


async def become_a_replica(patient: Patient) -> None:
    """Blocked workers are told "UNBLOCKED ..."; every write is refused from then on."""
    await patient.say("REPLICAOF", "127.0.0.1", "1")


async def lead_again(patient: Patient) -> None:
    await patient.say("REPLICAOF", "NO", "ONE")


async def fail_to_save(patient: Patient) -> None:
    """MISCONF: it takes no writes while it cannot keep what it has."""
    room = patient.valkey.folder / "room"
    room.chmod(0o500)
    await patient.say("CONFIG", "SET", "save", "3600 1")
    with contextlib.suppress(RedisError):
        await patient.say("BGSAVE")
    await wait_for(lambda: _refuses_writes(patient), what="MISCONF")


async def _refuses_writes(patient: Patient) -> bool:
    try:
        await patient.say("SET", "probe", "x", "PX", "1")
    except RedisError as error:
        return "MISCONF" in str(error)
    return False


async def save_again(patient: Patient) -> None:
    (patient.valkey.folder / "room").chmod(0o700)
    await patient.say("CONFIG", "SET", "save", "")


async def load_for_long(patient: Patient) -> None:
    """LOADING: it was restarted, and reads what it had, for seconds."""
    async with patient.redis.pipeline(transaction=False) as pipeline:
        for number in range(6_000):
            pipeline.set(f"filler:{number}", "x" * 64)
        await pipeline.execute()
    await patient.say("SAVE")
    patient.valkey.stop("immediate")
    slowly = {"key-load-delay": "1000", "loading-process-events-interval-bytes": "1024"}
    patient.valkey._config |= slowly
    patient.loading = asyncio.create_task(asyncio.to_thread(patient.valkey.start))


async def be_loaded(patient: Patient) -> None:
    assert patient.loading is not None
    await patient.loading
    await patient.redis.aclose()  # its connection was to the one before


async def forget_the_password(patient: Patient) -> None:
    """NOAUTH, WRONGPASS: whoever connects from now on is not known."""
    await patient.say("CONFIG", "SET", "requirepass", "another")
    await patient.say("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def remember_the_password(patient: Patient) -> None:
    await patient.say("CONFIG", "SET", "requirepass", patient.valkey.password)


async def forbid_waiting(patient: Patient) -> None:
    """NOPERM in the middle of a connection that is well."""
    await patient.say("ACL", "SETUSER", "default", "-brpop")


async def allow_waiting(patient: Patient) -> None:
    await patient.say("ACL", "SETUSER", "default", "+brpop")


async def spoil_the_queue(patient: Patient) -> None:
    """WRONGTYPE under the queue's own key."""
    await patient.say("SET", "template", "not a list")


async def mend_the_queue(patient: Patient) -> None:
    await patient.say("DEL", "template")


async def let_nobody_in(patient: Patient) -> None:
    """ERR max number of clients reached."""
    await patient.say("CONFIG", "SET", "maxclients", "1")
    await patient.say("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def let_everybody_in(patient: Patient) -> None:
    await patient.say("CONFIG", "SET", "maxclients", "10000")


Deed = Callable[[Patient], Awaitable[None]]
AILMENTS: list[tuple[Deed, Deed, str]] = [
    (become_a_replica, lead_again, "server:ReadOnlyError"),
    (fail_to_save, save_again, "MISCONF"),
    (load_for_long, be_loaded, "loading the dataset"),
    (forget_the_password, remember_the_password, "invalid username-password pair"),
    (forbid_waiting, allow_waiting, "NoPermissionError"),
    (spoil_the_queue, mend_the_queue, "server:ResponseError"),
    (let_nobody_in, let_everybody_in, "max number of clients reached"),
]


@contextlib.asynccontextmanager
async def listening(
    settings: Settings, valkey: Valkey
) -> AsyncIterator[tuple[WorkerProcess, Patient, Settings]]:
    """A worker that waits for a bell, and the Redis that it waits for."""
    own = settings.model_copy(update={"redis_url": type(settings.redis_url)(valkey.url)})
    async with Redis.from_url(valkey.url, single_connection_client=True) as redis:
        patient = Patient(redis, valkey)
        with WorkerProcess(own) as worker:
            await wait_for(patient.is_waited_for, what="a worker waits for a bell")
            yield worker, patient, own


@pytest.mark.parametrize("ailment", AILMENTS, ids=[hurt.__name__ for hurt, *_ in AILMENTS])
async def test_no_ailment_of_redis_ends_a_worker(
    settings: Settings, ledger: Ledger, valkey: Valkey, ailment: tuple[Deed, Deed, str]
) -> None:
    hurt, heal, says = ailment
    async with listening(settings, valkey) as (worker, patient, own):
        await hurt(patient)
        await wait_for(
            lambda: says in worker.output or worker.process.poll() is not None,
            what=f"the worker was told: {says}",
        )
        (meanwhile,) = await ledger.accept()
        await ledger.reaches(meanwhile, "succeeded", within_s=10)
        assert worker.process.poll() is None, worker.output[-2000:]
        await heal(patient)
        await wait_for(patient.is_waited_for, within_s=20, what="it listens again")
        (afterwards,) = await ledger.accept()
        ringer = Ringer(own)
        ringer.ring(queue="template", kind="test.scripted_async", job_id=afterwards)
        await ledger.reaches(afterwards, "succeeded", within_s=10)
        ringer.close()
        assert worker.process.poll() is None, worker.output[-2000:]


FORGED = {
    "no JSON": "garbage",
    "no text": b"\xff\xfe\x00",
    "null": "null",
    "a list": "[]",
    "empty": "{}",
    "wrong types": json.dumps({"body": 1, "properties": [], "headers": 7}),
    "no headers": json.dumps({"body": "e30=", "properties": {"delivery_tag": "x"}}),
    "a pickle": json.dumps(
        {
            "body": "gASVCgAAAAAAAACMBmZvcmdlZJQu",
            "content-type": "application/x-python-serialize",
            "content-encoding": "binary",
            "headers": {"task": "test.scripted_async", "id": "x"},
            "properties": {
                "delivery_tag": "x",
                "body_encoding": "base64",
                "delivery_info": {"routing_key": "template", "exchange": ""},
            },
        }
    ),
    "an unknown task": json.dumps(
        {
            "body": "W1tdLCB7fSwge31d",
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"task": "os.system", "id": "x", "lang": "py"},
            "properties": {
                "delivery_tag": "x",
                "body_encoding": "base64",
                "delivery_info": {"routing_key": "template", "exchange": ""},
            },
        }
    ),
}


@pytest.mark.parametrize("message", FORGED.values(), ids=FORGED.keys())
async def test_no_message_ends_a_worker(
    settings: Settings, ledger: Ledger, valkey: Valkey, message: str | bytes
) -> None:
    async with listening(settings, valkey) as (worker, patient, _):
        for _ in range(3):
            await patient.say("LPUSH", "template", message)
        await wait_for(lambda: _is_taken(patient), what="all of them are taken")
        (job_id,) = await ledger.accept()
        await ledger.reaches(job_id, "succeeded", within_s=10)
        await wait_for(patient.is_waited_for, within_s=20, what="it listens again")
        assert worker.process.poll() is None, worker.output[-2000:]


async def _is_taken(patient: Patient) -> bool:
    return not await patient.redis.llen("template")


async def test_a_redis_that_goes_wrong_for_long_is_asked_ever_more_seldom(
    settings: Settings, valkey: Valkey
) -> None:
    async with listening(settings, valkey) as (worker, patient, _):
        await spoil_the_queue(patient)
        await wait_for(lambda: worker.output.count(SAID) >= 3, what="it has met it again and again")
        seen = worker.output.count(SAID)
        await asyncio.sleep(6)
        assert worker.output.count(SAID) - seen <= 3
        await mend_the_queue(patient)
        await wait_for(patient.is_waited_for, within_s=20)


async def test_ringer_outlives_whatever_redis_says(
    settings: Settings, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    own = settings.model_copy(update={"redis_url": type(settings.redis_url)(valkey.url)})
    ringer = Ringer(own)
    async with Redis.from_url(valkey.url, single_connection_client=True) as redis:
        patient = Patient(redis, valkey)

        def ring() -> None:
            ringer.ring(queue="template", kind="test.scripted_async", job_id=ids.new())

        for hurt, heal, _ in (*AILMENTS[:2], AILMENTS[3], *AILMENTS[5:]):
            # Cleared before the hurt: a ring that was still on its way may be the one that meets it,
            # and what is rung in the pause after a loss is dropped without a word.
            caplog.clear()
            await hurt(patient)

            def noticed() -> bool:
                ring()
                return any(one.getMessage() == "doorbell.lost" for one in caplog.records)

            await wait_for(noticed, what=f"{hurt.__name__} is noticed")
            await heal(patient)
            await patient.say("DEL", "template")

            async def heard() -> bool:
                ring()
                return bool(await patient.redis.llen("template"))

            await wait_for(heard, what=f"after {heal.__name__} it rings again")
            await patient.say("DEL", "template")
    ringer.close()
