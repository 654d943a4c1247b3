"""Relays that attack: floods, endless lines, odd words, early ends."""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from ledger import ids, relay_states
from tasks.email.payload import Email
from tasks.outcomes import Failed, RetryLater, Snooze, Succeeded
from tests.email.conftest import MAIL
from tests.email.scripted_relay import Act, ScriptedRelay
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.email.conftest import Jobs

LONG = "250 " + "x" * 100_000
STEPS = ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("words", [LONG, "\n".join(["250-x"] * 5_000 + ["250 x"])])
async def test_an_endless_reply_ends_the_conversation(
    jobs: Jobs, relay: ScriptedRelay, step: str, words: str
) -> None:
    relay.next(step, words)
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, Snooze if step in {"CONNECT", "EHLO"} else RetryLater)
    expected = {"CONNECT": "pending", "EHLO": "pending", "DOT": "dot_sent"}.get(step, "deferred")
    assert await jobs.states(job_id) == [expected]
    await wait_for(lambda: relay.open == 0)


@pytest.mark.parametrize("step", ["EHLO", "DATA", "DOT"])
async def test_a_flood_of_replies_is_not_kept(jobs: Jobs, step: str) -> None:
    """A megabyte a turn, for as long as somebody reads."""
    flooded = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(b"220 x\r\n")
            for command in ("EHLO", "MAIL", "RCPT", "DATA"):
                await reader.readline()
                if command == step:
                    break
                writer.write(b"354 x\r\n" if command == "DATA" else b"250 x\r\n")
            else:
                while await reader.readline() != b".\r\n":
                    pass
            answer = b"354 x\r\n" if step == "DATA" else b"250 x\r\n"
            for _ in range(50):
                writer.write(answer + b"250 x\r\n" * 150_000)
                await writer.drain()
                answer = b""
        writer.transport.abort()
        flooded.set()

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        jobs.smtp_url = f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        job_id = ids.new()
        tracemalloc.start()
        try:
            outcome = await jobs.run(job_id)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await flooded.wait()
    expected = {"EHLO": Snooze, "DATA": RetryLater, "DOT": Succeeded}[step]
    assert isinstance(outcome, expected), outcome
    assert peak < 20_000_000


@pytest.mark.parametrize("pipelining", [True, False])
async def test_a_relay_that_closes_right_after_its_354_has_nothing(
    jobs: Jobs, relay: ScriptedRelay, pipelining: bool
) -> None:
    relay.pipelining = pipelining
    relay.next("DATA", Act("354 Go", closes=True))
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, RetryLater)
    assert "lost at body" in outcome.reason
    [row] = await jobs.rows(job_id)
    assert (row.state, row.dot_sent_at) == ("deferred", None)
    assert isinstance(await jobs.run(job_id, attempt=2), Succeeded)
    assert len(relay.mails) == 1


async def test_a_relay_that_bids_farewell_while_the_dot_waits_says_so_in_the_reason(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    relay.next("BODY", Act("421 4.4.2 Too slow", closes=True))
    job_id = ids.new()
    outcome = await jobs.run(job_id, text="x\n" * 100_000)
    assert isinstance(outcome, RetryLater)
    assert (
        "lost at body: the relay sent an unsolicited reply (421 4.4.2 Too slow)" in outcome.reason
    )
    assert await jobs.states(job_id) == ["deferred"]


@pytest.mark.parametrize("size", ["²", "٣", "-1", "1" * 1_500, "x", ""])
async def test_an_odd_size_is_no_limit_and_no_crash(
    jobs: Jobs, relay: ScriptedRelay, size: str
) -> None:
    relay.always("EHLO", f"250-x\n250-SIZE {size}\n250 PIPELINING")
    assert isinstance(await jobs.run(), Succeeded)


async def test_a_login_that_cannot_be_checked_now_is_the_relays_trouble_not_the_mails(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    """Each mail paid for it with an attempt, and went on knocking."""
    relay.logins = {"ada": "right"}
    relay.next("AUTH", "454 4.7.0 Temporary authentication failure")
    jobs.smtp_url = relay.url(login="ada:right", backoff_s=0.05)
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, Snooze)
    assert "454 4.7.0" in outcome.reason
    assert await jobs.states(job_id) == ["pending"]

    async def is_over() -> bool:
        async with jobs.database.connect() as connection:
            [known] = (await relay_states.look(connection, [("default", "default")])).values()
        return not known.is_blocked

    await wait_for(is_over)
    assert isinstance(await jobs.run(job_id, attempt=2), Succeeded)


@pytest.mark.parametrize("answer", ["334 bW9yZQ==", "250 OK", "220 x", "354 Go"])
async def test_a_login_that_is_neither_taken_nor_refused_is_the_relays_trouble(
    jobs: Jobs, relay: ScriptedRelay, answer: str
) -> None:
    relay.logins = {"ada": "right"}
    relay.next("AUTH", answer)
    jobs.smtp_url = relay.url(login="ada:right")
    outcome = await jobs.run()
    assert isinstance(outcome, Snooze)
    assert relay.mails == []
    async with jobs.database.connect() as connection:
        [known] = (await relay_states.look(connection, [("default", "default")])).values()
    assert not known.is_stopped


async def test_words_that_no_database_takes_are_kept_without_what_it_refuses(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    relay.next("DOT", "250 2.0.0 a\x00b\x1b[2J\x7f\ufffe")
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, Succeeded)
    [row] = await jobs.rows(job_id)
    assert row.reply == "250 2.0.0 a b [2J \ufffe"


async def test_two_jobs_never_share_a_message_id(jobs: Jobs, relay: ScriptedRelay) -> None:
    """Relays that deduplicate by it would swallow the second."""
    with pytest.raises(ValidationError):
        Email.model_validate({**MAIL, "headers": {"Message-ID": "<mine@example.org>"}})
    first, second = ids.new(), ids.new()
    await jobs.run(first)
    await jobs.run(second)
    one, other = [(await jobs.rows(job_id))[0].message_id for job_id in (first, second)]
    assert one != other
    assert [one.encode() in mail.data for mail in relay.mails] == [True, False]


async def test_a_relay_that_refuses_on_a_kept_connection_is_asked_once_more_and_no_oftener(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    await jobs.run()
    relay.always("MAIL", "550 5.7.1 You again")
    assert isinstance(await jobs.run(), Failed)
    assert relay.connections == 2
    assert sum(command.startswith("MAIL") for command in relay.commands) == 3
