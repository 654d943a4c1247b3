from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest

from runtime import telemetry
from tasks.callbacks import (
    ATTEMPTS,
    SCHEDULE_S,
    SELDOM_CHANGE_TRIES,
    Callback,
    call_back,
    retry_after_s,
)
from tasks.outbound import signature
from tasks.outbound.client import Response
from tasks.outcomes import Failed, RetryLater, Succeeded
from tests.outbound.conftest import JOB_ID, SECRET
from tests.outbound.peers import Peer, Script, answer, answers, babble, drop, peer

if TYPE_CHECKING:
    from tests.outbound.conftest import MakeContext

BODY = {"type": "job.succeeded", "data": {"zeta": 1, "alpha": [1.5, "Grüße", None], "nested": {}}}


def of_receiver(receiver: Peer, *, master: str = SECRET, tenant: str = "default") -> str:
    (secret,) = signature.endpoint_secrets(master, tenant=tenant, url=receiver.url())
    return secret


def test_the_schedule_spans_about_three_days() -> None:
    assert 2.5 * 86_400 < sum(SCHEDULE_S) < 3 * 86_400


async def test_a_callback_is_signed_traced_and_the_same_at_every_attempt(
    make_context: MakeContext,
) -> None:
    async with peer(answers(answer(500), answer(204))) as receiver:
        first = Callback(url=receiver.url(), body=BODY)
        with telemetry.span("run") as span:
            outcome = await call_back(first, make_context())
        assert isinstance(outcome, RetryLater)
        # Postgres gives the keys back in an order of its own.
        second = Callback(url=receiver.url(), body={"data": BODY["data"], "type": BODY["type"]})
        assert await call_back(second, make_context(attempt=2)) == Succeeded({"status": 204})
    before, after = receiver.requests
    assert before.body == after.body
    assert before.headers["webhook-id"] == after.headers["webhook-id"] == f"msg_{JOB_ID}"
    assert before.headers["content-type"] == "application/json"
    assert before.headers["traceparent"].split("-")[1] == span.trace_id
    for request in receiver.requests:
        signature.verify(secret=of_receiver(receiver), headers=request.headers, body=request.body)


async def test_every_tenant_and_endpoint_has_a_secret_of_its_own(
    make_context: MakeContext,
) -> None:
    """Whoever knows one, a receiver or its tenant, can forge no callback to another."""
    async with peer(answer(200)) as one, peer(answer(200)) as two:
        for receiver, tenant in ((one, "default"), (two, "default"), (one, "acme")):
            payload = Callback(url=receiver.url("/some/path?of=it"), body=BODY)
            assert isinstance(await call_back(payload, make_context(tenant=tenant)), Succeeded)
        first, second, third = one.requests[0], two.requests[0], one.requests[1]
        own = {
            of_receiver(one): first,
            of_receiver(two): second,
            of_receiver(one, tenant="acme"): third,
        }
        assert SECRET not in own
        assert len(own) == 3
        for secret in (*own, SECRET):
            for request in (first, second, third):
                if own.get(secret) is request:
                    signature.verify(secret=secret, headers=request.headers, body=request.body)
                else:
                    with pytest.raises(signature.WrongSignature):
                        signature.verify(secret=secret, headers=request.headers, body=request.body)


async def test_both_secrets_of_a_rotation_sign(make_context: MakeContext) -> None:
    other = "whsec_" + "QUJD" * 8
    async with peer(answer(200)) as receiver:
        await call_back(
            Callback(url=receiver.url(), body={}), make_context(secret=f"{other} {SECRET}")
        )
    (request,) = receiver.requests
    for master in (SECRET, other):
        secret = of_receiver(receiver, master=master)
        signature.verify(secret=secret, headers=request.headers, body=request.body)


@pytest.mark.parametrize("off_s", [-7_200, 7_200])
async def test_the_timestamp_is_the_ledgers_whatever_the_workers_clock_says(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, off_s: float
) -> None:
    now = time.time()
    context = make_context(clock_offset_s=now - time.monotonic())
    async with peer(answer(200)) as receiver:
        with monkeypatch.context() as worker:
            worker.setattr(time, "time", lambda: now + off_s)
            await call_back(Callback(url=receiver.url(), body=BODY), context)
    (request,) = receiver.requests
    signature.verify(
        secret=of_receiver(receiver), headers=request.headers, body=request.body, tolerance_s=5
    )


async def test_without_a_secret_nothing_is_sent(make_context: MakeContext) -> None:
    async with peer(answer(200)) as receiver:
        outcome = await call_back(Callback(url=receiver.url(), body={}), make_context(secret=""))
    assert isinstance(outcome, RetryLater)
    assert "RELAIS_CALLBACK_SECRET" in outcome.reason
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("script", "early", "late"),
    [
        (answer(200), Succeeded, Succeeded),
        (answer(299, b"x" * 100_000), Succeeded, Succeeded),
        (babble, Succeeded, Succeeded),
        (answer(301, Location="http://127.0.0.1/"), RetryLater, Failed),
        (answer(307), RetryLater, Failed),
        (answer(400), RetryLater, Failed),
        (answer(401), RetryLater, RetryLater),
        (answer(403), RetryLater, RetryLater),
        (answer(404), RetryLater, Failed),
        (answer(409), RetryLater, Failed),
        (answer(410), Failed, Failed),
        (answer(422), RetryLater, Failed),
        (answer(429), RetryLater, RetryLater),
        (answer(500), RetryLater, RetryLater),
        (answer(503), RetryLater, RetryLater),
        (drop, RetryLater, RetryLater),
    ],
)
async def test_what_an_answer_means(
    script: Script, early: type, late: type, make_context: MakeContext
) -> None:
    async with peer(script) as receiver:
        payload = Callback(url=receiver.url(), body={})
        assert isinstance(await call_back(payload, make_context(attempt=1)), early)
        context = make_context(attempt=9, tries_left=ATTEMPTS - SELDOM_CHANGE_TRIES)
        assert isinstance(await call_back(payload, context), late)


async def test_the_guard_ends_a_callback_and_names_the_setting(make_context: MakeContext) -> None:
    async with peer(answer(200)) as inside:
        outcome = await call_back(
            Callback(url=inside.url(), body={}), make_context(allow="elsewhere.example")
        )
    assert isinstance(outcome, Failed)
    assert f"add 127.0.0.1:{inside.port} to RELAIS_OUTBOUND_ALLOW" in outcome.reason
    assert inside.requests == []


@pytest.mark.parametrize(
    ("value", "low_s", "high_s"),
    [
        ("120", 120, 132),
        ("0", 1, 1.1),
        ("9999999999999999", 86_400, 86_400),
        (timedelta(hours=1), 3_500, 3_961),
        (timedelta(hours=-1), 1, 1.1),
    ],
    ids=["seconds", "none", "too many", "a date ahead", "a date behind"],
)
def test_retry_after_is_honoured_within_a_day(
    value: str | timedelta, low_s: float, high_s: float
) -> None:
    if isinstance(value, timedelta):
        value = format_datetime(datetime.now(UTC) + value, usegmt=True)
    asked = Response(503, {"retry-after": value}, b"", is_cut=False)
    delay_s = retry_after_s(asked, now=time.time())
    assert delay_s is not None
    assert low_s <= delay_s <= high_s


@pytest.mark.parametrize("value", ["", "soon", "-5", "Fri, 99 Nov 2026 99:99:99 GMT"])
def test_a_retry_after_that_means_nothing(value: str) -> None:
    now = time.time()
    assert retry_after_s(Response(429, {"retry-after": value}, b"", is_cut=False), now=now) is None
    assert retry_after_s(Response(200, {"retry-after": "5"}, b"", is_cut=False), now=now) is None


def test_a_retry_after_is_measured_by_the_clock_that_gave_it() -> None:
    theirs = datetime.now(UTC) + timedelta(days=3)
    headers = {
        "date": format_datetime(theirs, usegmt=True),
        "retry-after": format_datetime(theirs + timedelta(minutes=10), usegmt=True),
    }
    delay_s = retry_after_s(Response(503, headers, b"", is_cut=False), now=time.time())
    assert delay_s is not None
    assert 600 <= delay_s <= 661
