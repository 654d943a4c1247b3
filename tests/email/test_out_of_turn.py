"""Relays that say more than they were asked: no reply is ever taken for another's."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from ledger import ids
from tasks.email.wire import Broken, Wire
from tasks.outcomes import RetryLater, Snooze, Succeeded
from tests.email.scripted_relay import Act
from tests.waiting import wait_for

if TYPE_CHECKING:
    from tests.email.conftest import Jobs
    from tests.email.scripted_relay import ScriptedRelay

REFUSAL = "554 5.6.0 Never"


@pytest.mark.parametrize("pipelining", [True, False])
async def test_a_250_that_comes_with_the_354_is_no_answer_to_the_dot(
    jobs: Jobs, relay: ScriptedRelay, pipelining: bool
) -> None:
    relay.pipelining = pipelining
    relay.next("DATA", "354 Go\n250 2.0.0 Taken")
    relay.always("DOT", REFUSAL)
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, RetryLater)
    assert "lost at body: the relay sent an unsolicited reply" in outcome.reason
    assert await jobs.states(job_id) == ["deferred"]
    relay.behave()
    assert isinstance(await jobs.run(job_id, attempt=2), Succeeded)
    assert len(relay.mails) == 1
    assert len(relay.unfinished) == 1  # hung up before the dot


async def test_a_250_that_comes_while_the_mark_is_committed_is_no_answer_to_the_dot(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    gate = asyncio.Event()
    relay.next("DATA", Act("354 Go", gate=gate))
    relay.next("BODY", "250 2.0.0 Taken")
    relay.always("DOT", REFUSAL)
    job_id = ids.new()
    async with jobs.database.connect() as other:
        running = asyncio.create_task(jobs.run(job_id))
        await relay.reached("DATA")
        await other.execute(
            text("SELECT FROM relais.messages WHERE job_id = :id FOR UPDATE"), {"id": job_id}
        )
        gate.set()
        await relay.reached("BODY")
        await other.rollback()
    outcome = await running
    assert isinstance(outcome, RetryLater)
    assert "lost at body" in outcome.reason
    [row] = await jobs.rows(job_id)
    assert (row.state, row.dot_sent_at, relay.mails) == ("deferred", None, [])


async def test_what_the_socket_holds_unread_counts_as_said_before_the_dot() -> None:
    """The relay's words are in the kernel's buffer when the dot is about to go out."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        wire = Wire()
        await asyncio.get_running_loop().create_connection(lambda: wire, *server.getsockname())
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"220 hello\r\n")
            assert (await wire.reply(timeout_s=5)).code == 220
            await wire.listen()  # nothing to hear

            def speak() -> None:
                peer.sendall(b"250 2.0.0 Taken\r\n")

            threading.Thread(target=speak).start()
            assert wire.transport is not None
            here = wire.transport.get_extra_info("socket")
            assert select.select([here.fileno()], [], [], 5)[0]  # the event loop stands still
            assert wire.failure is None
            with pytest.raises(Broken, match="unsolicited"):
                await wire.listen()


@pytest.mark.parametrize("step", ["CONNECT", "EHLO"])
async def test_a_relay_that_chatters_from_the_start_is_not_spoken_to(
    jobs: Jobs, relay: ScriptedRelay, step: str
) -> None:
    relay.always(step, "220 hello\n250 x\n250 x" if step == "CONNECT" else "250 x\n250 x")
    outcome = await jobs.run()
    assert isinstance(outcome, Snooze)  # no fault of the mail's
    assert "the relay sent an unsolicited reply" in outcome.reason
    assert "MAIL" not in " ".join(relay.commands)


async def test_a_farewell_right_behind_the_250_takes_nothing_back(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    relay.next("DOT", Act("250 2.0.0 Taken\n421 4.7.0 Enough for today", takes=True, closes=True))
    assert isinstance(await jobs.run(), Succeeded)
    assert isinstance(await jobs.run(), Succeeded)
    assert relay.connections == 2


async def test_a_250_with_a_refusal_right_behind_it_leaves_a_doubt(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    """The 250 may have been on its way before the dot; then the refusal is the answer."""
    relay.next("DOT", f"250 2.0.0 Taken\n{REFUSAL}")
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, RetryLater)
    assert "replied to the dot twice" in outcome.reason
    assert await jobs.states(job_id) == ["dot_sent"]


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("extra", ["250 2.0.0 Again", REFUSAL, "354 Go"])
async def test_an_extra_reply_shifts_no_answers_of_a_reused_connection(
    jobs: Jobs, relay: ScriptedRelay, extra: str, pipelining: bool
) -> None:
    """It arrives when the next mail has been offered already: as its MAIL is answered."""
    relay.pipelining = pipelining
    await jobs.run()
    relay.next("MAIL", f"{extra}\n250 2.1.0 OK")
    job_id = ids.new()
    assert isinstance(await jobs.run(job_id, to="bob@x.org"), Succeeded)
    assert relay.connections == 2
    assert [mail.recipient for mail in relay.mails] == ["ada@example.net", "bob@x.org"]
    assert relay.unfinished == [] or all(b"RSET" not in body for body in relay.unfinished)


async def test_an_extra_reply_in_idleness_closes_the_connection(
    jobs: Jobs, relay: ScriptedRelay
) -> None:
    gate = asyncio.Event()
    relay.next("DOT", Act("250 2.0.0 Taken", then=Act("250 2.0.0 Again", gate=gate)))
    assert isinstance(await jobs.run(), Succeeded)
    gate.set()
    await wait_for(lambda: relay.open == 0)
    assert isinstance(await jobs.run(), Succeeded)
    assert (relay.connections, len(relay.mails)) == (2, 2)


@pytest.mark.parametrize("pipelining", [True, False])
async def test_data_answered_with_250_gets_no_body(
    jobs: Jobs, relay: ScriptedRelay, pipelining: bool
) -> None:
    relay.pipelining = pipelining
    relay.always("DATA", "250 2.0.0 OK")
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, RetryLater)
    assert "lost at data: the relay is out of step (250 2.0.0 OK)" in outcome.reason
    assert await jobs.states(job_id) == ["deferred"]
    await wait_for(lambda: relay.open == 0)
    assert relay.commands[-1] == "DATA"


@pytest.mark.parametrize("answer", ["354 Go on", "220 Hello again", "221 Bye", "334 VXNlcg=="])
async def test_what_cannot_answer_a_dot_leaves_a_doubt(
    jobs: Jobs, relay: ScriptedRelay, answer: str
) -> None:
    relay.next("DOT", answer)
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, RetryLater)
    assert "the relay is out of step" in outcome.reason
    assert await jobs.states(job_id) == ["dot_sent"]
    await wait_for(lambda: relay.open == 0)


async def test_a_reply_whose_lines_disagree_is_none(jobs: Jobs, relay: ScriptedRelay) -> None:
    relay.next("DOT", "554-5.6.0 No\n250 2.0.0 Yes")
    job_id = ids.new()
    assert isinstance(await jobs.run(job_id), RetryLater)
    assert await jobs.states(job_id) == ["dot_sent"]
