"""The final dot: what is retried, what is not, who may still send, and what is noted when."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from ledger import ids, messages
from ledger.messages import Settled
from tasks.email.send import LOST_CLAIM
from tasks.outcomes import Failed, RetryLater, Succeeded, Unknown
from tests.email.scripted_relay import DROP, TAKE_AND_DROP, Act
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.email.conftest import Jobs
    from tests.email.scripted_relay import ScriptedRelay

BEFORE_THE_DOT = ["MAIL", "RCPT", "DATA"]


@pytest.mark.parametrize("step", BEFORE_THE_DOT)
@pytest.mark.parametrize("pipelining", [True, False])
async def test_lost_before_the_dot_is_safe_to_retry(
    jobs: Jobs, relay: ScriptedRelay, step: str, pipelining: bool
) -> None:
    relay.pipelining = pipelining
    relay.next(step, DROP)
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, RetryLater)
    assert f"lost at {step.lower()}" in outcome.reason
    assert await jobs.states(job_id) == ["deferred"]
    assert isinstance(await jobs.run(job_id, attempt=2), Succeeded)
    assert len(relay.mails) == 1


@pytest.mark.parametrize("step", BEFORE_THE_DOT)
async def test_a_kept_connection_that_died_costs_nothing(
    jobs: Jobs, relay: ScriptedRelay, step: str
) -> None:
    await jobs.run()
    relay.next(step, DROP)
    assert isinstance(await jobs.run(), Succeeded)
    assert relay.connections == 2


async def test_a_farewell_on_a_kept_connection_costs_nothing(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    await jobs.run()
    relay.next("MAIL", Act("421 4.4.2 Idle for too long", closes=True))
    assert isinstance(await jobs.run(), Succeeded)
    assert relay.connections == 2


@pytest.mark.parametrize(("answer", "copies"), [(DROP, 1), (TAKE_AND_DROP, 2)])
async def test_at_least_once_sends_the_same_bytes_again(
    jobs: Jobs, relay: ScriptedRelay, answer: Act, copies: int
) -> None:
    relay.next("DOT", answer)
    job_id = ids.new()
    outcome = await jobs.run(job_id, text="Hé\n.\n..\n")
    assert isinstance(outcome, RetryLater)
    assert await jobs.states(job_id) == ["dot_sent"]
    assert isinstance(await jobs.run(job_id, attempt=2, text="Hé\n.\n..\n"), Succeeded)
    assert await jobs.states(job_id) == ["sent"]
    assert len(relay.mails) == copies
    assert len({mail.data for mail in relay.mails}) == 1


async def test_at_most_once_leaves_it_to_a_person(jobs: Jobs, relay: ScriptedRelay) -> None:
    jobs.smtp_url = relay.url(policy="at_most_once")
    relay.next("DOT", TAKE_AND_DROP)
    job_id = ids.new()
    assert isinstance(await jobs.run(job_id), Unknown)
    assert await jobs.states(job_id) == ["unknown"]
    # Whatever claims it again without a person having decided sends nothing.
    assert isinstance(await jobs.run(job_id, attempt=2), Unknown)
    assert len(relay.mails) == 1
    await jobs.end(job_id, "unknown")
    assert isinstance(await jobs.run(job_id, attempt=3), Succeeded)
    assert len(relay.mails) == 2


async def test_at_most_once_after_a_crash_leaves_it_to_a_person(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    jobs.smtp_url = relay.url()
    relay.next("DOT", DROP)
    job_id = ids.new()
    await jobs.run(job_id)
    assert await jobs.states(job_id) == ["dot_sent"]
    outcome = await jobs.run(job_id, attempt=2, policy="at_most_once")
    assert isinstance(outcome, Unknown)
    assert relay.mails == []


async def test_idempotency_header_repeats_its_key_inside_the_window(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    jobs.smtp_url = relay.url(policy="idempotency_header", idempotency_header="Resend-Key")
    relay.next("DOT", TAKE_AND_DROP)
    job_id = ids.new()
    await jobs.run(job_id)
    assert isinstance(await jobs.run(job_id, attempt=2), Succeeded)
    first, second = relay.mails
    [row] = await jobs.rows(job_id)
    assert first.data == second.data
    assert first.data.startswith(f"Resend-Key: {row.id}\r\n".encode())


async def test_idempotency_header_is_not_repeated_outside_the_window(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    jobs.smtp_url = relay.url(
        policy="idempotency_header", idempotency_header="Key", idempotency_window_s=3600
    )
    relay.next("DOT", TAKE_AND_DROP)
    job_id = ids.new()
    await jobs.run(job_id)
    async with jobs.database.begin() as connection:
        await connection.execute(
            text("UPDATE relais.messages SET dot_sent_at = dot_sent_at - interval '2 hours'")
        )
    outcome = await jobs.run(job_id, attempt=2)
    assert isinstance(outcome, Unknown)
    assert len(relay.mails) == 1


async def test_a_doubt_is_only_removed_by_a_250(jobs: Jobs, relay: ScriptedRelay) -> None:
    relay.next("DOT", TAKE_AND_DROP, "451 4.3.0 Later")
    job_id = ids.new()
    await jobs.run(job_id)
    [before] = await jobs.rows(job_id)
    assert isinstance(await jobs.run(job_id, attempt=2), RetryLater)
    [after] = await jobs.rows(job_id)
    assert (after.state, after.dot_sent_at) == ("dot_sent", before.dot_sent_at)
    relay.next("RCPT", "550 5.7.1 Enough")
    outcome = await jobs.run(job_id, attempt=3)
    assert isinstance(outcome, Unknown)
    assert "550 5.7.1 Enough" in outcome.reason


async def test_the_last_try_without_an_answer_is_unknown(jobs: Jobs, relay: ScriptedRelay) -> None:
    relay.next("DOT", DROP)
    assert isinstance(await jobs.run(context={"tries_left": 0}), Unknown)


async def test_a_late_answer_is_waited_for(jobs: Jobs, relay: ScriptedRelay) -> None:
    gate = asyncio.Event()
    relay.next("DOT", Act("250 2.0.0 At last", gate=gate))
    job_id = ids.new()
    running = asyncio.create_task(jobs.run(job_id))
    await relay.reached("DOT")
    assert await jobs.states(job_id) == ["dot_sent"]
    gate.set()
    assert isinstance(await running, Succeeded)
    assert len(relay.mails) == 1


async def test_an_answer_that_comes_too_late_is_nobody_elses(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    jobs.smtp_url = relay.url(dot_timeout_s=0.2, connections=1)
    gate = asyncio.Event()
    relay.next("DOT", Act("250 2.0.0 At last", gate=gate))
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, RetryLater)
    assert "the relay did not reply in time" in outcome.reason
    relay.next("DOT", "554 5.6.0 Not you")
    other = asyncio.create_task(jobs.run())
    gate.set()
    assert isinstance(await other, Failed)
    assert await jobs.states(job_id) == ["dot_sent"]


async def test_called_off_before_the_dot_takes_everything_back(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    gate = asyncio.Event()
    relay.next("DATA", Act("354 Go", gate=gate))
    job_id = ids.new()
    running = asyncio.create_task(jobs.run(job_id))
    await relay.reached("DATA")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await jobs.states(job_id) == ["sending"]
    assert isinstance(await jobs.run(job_id, attempt=2), Succeeded)
    assert len(relay.mails) == 1


async def test_called_off_while_the_mark_is_committed_takes_the_mark_back(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    job_id = ids.new()
    async with jobs.database.connect() as other:
        # Postgres keeps the mark waiting: another session holds the message.
        gate = asyncio.Event()
        relay.next("DATA", Act("354 Go", gate=gate))
        running = asyncio.create_task(jobs.run(job_id))
        await relay.reached("DATA")
        await other.execute(
            text("SELECT FROM relais.messages WHERE job_id = :id FOR UPDATE"), {"id": job_id}
        )
        gate.set()
        await _until_someone_waits_for_a_lock(jobs)
        running.cancel()
        await asyncio.sleep(0)
        await other.rollback()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await jobs.states(job_id) == ["pending"]
    assert relay.mails == []
    assert isinstance(await jobs.run(job_id, attempt=2), Succeeded)
    assert len(relay.unfinished) == 1


async def test_called_off_after_the_dot_hears_the_answer_and_finishes(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    gate = asyncio.Event()
    relay.always("DOT", Act("250 2.0.0 Taken", gate=gate))
    job_id = ids.new()
    running = asyncio.create_task(jobs.run(job_id, to="a@x.org, b@x.org"))
    await relay.reached("DOT", 2)
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    gate.set()
    assert isinstance(await running, Succeeded)
    assert await jobs.states(job_id) == ["sent", "sent"]


async def test_a_stale_attempt_stops_before_the_dot(jobs: Jobs, relay: ScriptedRelay) -> None:
    """The claim moves on while the first worker is between DATA and dot."""
    gate = asyncio.Event()
    relay.next("DATA", Act("354 Go", gate=gate))
    job_id = ids.new()
    stale = asyncio.create_task(jobs.run(job_id))
    await relay.reached("DATA")
    assert isinstance(await jobs.run(job_id, attempt=2), Succeeded)
    gate.set()
    assert await stale == LOST_CLAIM
    assert len(relay.mails) == 1
    [row] = await jobs.rows(job_id)
    assert (row.state, row.attempt, row.tries) == ("sent", 2, 1)


async def test_a_claim_taken_over_is_noticed_before_its_messages_are(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    """The next worker has claimed the job and has not come to its messages yet."""
    gate = asyncio.Event()
    relay.next("DATA", Act("354 Go", gate=gate))
    job_id = ids.new()
    stale = asyncio.create_task(jobs.run(job_id))
    await relay.reached("DATA")
    await jobs.context(job_id, attempt=2)
    gate.set()
    assert await stale == LOST_CLAIM
    assert relay.mails == []
    assert await jobs.states(job_id) == ["sending"]


async def test_a_lease_that_ran_out_by_our_own_clock_stops_the_dot(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    job_id = ids.new()
    outcome = await jobs.run(job_id, context={"still_owned": lambda: False})
    assert outcome == LOST_CLAIM
    assert relay.mails == []
    [row] = await jobs.rows(job_id)
    assert (row.state, row.dot_sent_at) == ("pending", None)


async def test_a_stale_outcome_changes_nothing(jobs: Jobs, relay: ScriptedRelay) -> None:
    gate = asyncio.Event()
    relay.next("DOT", Act("250 2.0.0 Taken", gate=gate))
    job_id = ids.new()
    stale = asyncio.create_task(jobs.run(job_id))
    await relay.reached("DOT")
    outcome = await jobs.run(job_id, attempt=2, policy="at_most_once")
    assert isinstance(outcome, Unknown)
    gate.set()
    assert await stale == LOST_CLAIM
    [row] = await jobs.rows(job_id)
    assert (row.state, row.attempt) == ("unknown", 2)


async def test_an_older_attempt_that_comes_late_sends_nothing(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    job_id = ids.new()
    relay.next("RCPT", "450 4.2.0 Later")
    await jobs.run(job_id, attempt=2)
    assert await jobs.run(job_id, attempt=1) == LOST_CLAIM
    assert relay.mails == []


async def test_a_failed_mail_is_sent_again_only_when_a_person_reopens_its_job(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    job_id = ids.new()
    relay.next("RCPT", "554 5.7.1 No")
    assert isinstance(await jobs.run(job_id), Failed)
    assert isinstance(await jobs.run(job_id, attempt=2), Failed)
    await jobs.end(job_id, "failed")
    assert isinstance(await jobs.run(job_id, attempt=3), Succeeded)
    assert len(relay.mails) == 1


async def test_what_a_job_leaves_open_is_settled(jobs: Jobs, relay: ScriptedRelay) -> None:
    in_doubt, deferred = ids.new(), ids.new()
    relay.next("DOT", DROP, "451 Later")
    await jobs.run(in_doubt)
    await jobs.run(deferred)
    await jobs.end(in_doubt, "failed")
    await jobs.end(deferred, "cancelled")
    walk = messages.Abandoned(since_s=0)
    assert await walk.settle(jobs.database, limit=10) == Settled(2, unknown=1, failed=1)
    assert await walk.settle(jobs.database, limit=10) == Settled(0, unknown=0, failed=0)
    assert await jobs.states(in_doubt) == ["unknown"]
    assert await jobs.states(deferred) == ["failed"]


async def _until_someone_waits_for_a_lock(jobs: Jobs) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )

    async def is_waiting() -> bool:
        async with jobs.database.connect() as connection:
            return bool((await connection.execute(waiting)).scalar_one())

    await wait_for(is_waiting)
