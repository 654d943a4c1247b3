"""Suppressions, relay states and settings that do not fit, through the ledger's functions."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from sqlalchemy import text

from ledger import ids, messages, relay_states, suppressions
from ledger.messages import Mark
from ledger.models.mail import MessageState
from tasks.outcomes import Failed, Snooze, Succeeded
from tests.email.scripted_relay import Act
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.email.conftest import Jobs
    from tests.email.scripted_relay import ScriptedRelay


async def test_suppressions_are_one_tenants_and_ignore_case(jobs: Jobs) -> None:
    async with jobs.database.begin() as connection:
        new = await suppressions.suppress(
            connection, tenant="default", addresses=["Ada@X.org ", "ada@x.org"], reason="asked"
        )
        assert new == 1
        assert not await suppressions.find(connection, tenant="other", address="ada@x.org")
        found = await suppressions.find(connection, tenant="default", address="ADA@x.org")
        assert found
        assert (found.address, found.reason) == ("ada@x.org", "asked")
        page = await suppressions.list_all(connection, tenant="default")
        assert [entry.address for entry in page] == ["ada@x.org"]
        assert await suppressions.list_all(connection, tenant="default", after="ada@x.org") == []
        assert not await suppressions.lift(connection, tenant="other", address="ada@x.org")
        assert await suppressions.lift(connection, tenant="default", address="Ada@x.org")
        assert not await suppressions.lift(connection, tenant="default", address="ada@x.org")


async def test_a_suppression_between_two_attempts_holds(jobs: Jobs, relay: ScriptedRelay) -> None:
    job_id = ids.new()
    relay.next("RCPT", "450 4.2.0 Later")
    await jobs.run(job_id)
    async with jobs.database.begin() as connection:
        await suppressions.suppress(
            connection, tenant="default", addresses=["ada@example.net"], reason="asked"
        )
    outcome = await jobs.run(job_id, attempt=2)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "all recipients are suppressed"
    assert relay.mails == []


async def test_a_stopped_relay_waits_for_an_operator(jobs: Jobs, relay: ScriptedRelay) -> None:
    relay.logins = {"a": "b"}
    jobs.smtp_url = relay.url(login="a:b")
    relay.next("AUTH", "535 5.7.8 Locked")
    job_id = ids.new()
    await jobs.run(job_id)
    async with jobs.database.begin() as connection:
        [record] = await relay_states.list_all(connection, tenant="default")
        assert record.stopped_at
        assert record.reason == "535 5.7.8 Locked"
        assert not await relay_states.resume(connection, tenant="other", name="default")
        assert await relay_states.resume(connection, tenant="default", name="default")
        assert not await relay_states.resume(connection, tenant="default", name="default")
    assert isinstance(await jobs.run(job_id, attempt=2), Succeeded)


async def test_backing_off_doubles_once_however_many_hear_of_it(jobs: Jobs) -> None:
    async def back_off() -> float:
        async with jobs.database.begin() as connection:
            return await relay_states.back_off(
                connection, tenant="default", name="x", base_s=300, cap_s=1000, reason="421"
            )

    async def let_it_pass() -> None:
        async with jobs.database.begin() as connection:
            await connection.execute(text("UPDATE relais.relay_states SET backoff_until = now()"))

    waits = []
    for _ in range(4):
        waits.append(await back_off())
        assert await back_off() <= waits[-1]
        await let_it_pass()
    assert [round(wait_s / 100) for wait_s in waits] == [3, 6, 10, 10]


async def test_a_relay_that_takes_mail_again_has_recovered(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    jobs.smtp_url = relay.url(backoff_s=0.01)
    relay.next("CONNECT", "421 4.3.2 Busy")
    job_id = ids.new()
    assert isinstance(await jobs.run(job_id), Snooze)
    attempts = itertools.count(2)

    async def is_sent() -> bool:
        return isinstance(await jobs.run(job_id, attempt=next(attempts)), Succeeded)

    await wait_for(is_sent)
    async with jobs.database.begin() as connection:
        assert (await relay_states.look(connection, [("default", "default")]))[
            "default", "default"
        ].backoff_step == 0


async def test_an_unknown_relay_fails_with_what_to_do(jobs: Jobs) -> None:
    outcome = await jobs.run(relay="marketing")
    assert outcome == Failed("There is no relay 'marketing'. Name it in RELAIS_RELAYS.")


async def test_a_policy_that_the_relay_cannot_keep_fails(jobs: Jobs) -> None:
    outcome = await jobs.run(policy="idempotency_header")
    assert isinstance(outcome, Failed)
    assert "has no idempotency header" in outcome.reason


async def test_no_wording_keeps_an_answer_out_of_the_books(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    gate = asyncio.Event()
    relay.next("DOT", Act("250 2.0.0 Taken", gate=gate))
    job_id = ids.new()
    running = asyncio.create_task(jobs.run(job_id))
    await relay.reached("DOT")
    [row] = await jobs.rows(job_id)
    odd = Mark(row.id, row.attempt, MessageState.DOT_SENT, reply="a\0b\ud800", reason="\udfff\0")
    async with jobs.database.begin() as connection:
        assert await messages.mark(connection, [odd]) == [True]
    [row] = await jobs.rows(job_id)
    assert (row.reply, row.reason) == ("ab?", "?")
    gate.set()
    assert isinstance(await running, Succeeded)
