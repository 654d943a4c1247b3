"""One relay's silence is nobody else's: its connections, its name server, its half-open line."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from ledger import ids
from tasks.email import pool, smtp
from tasks.outcomes import RetryLater, Snooze, Succeeded
from tests.email.conftest import Jobs
from tests.email.scripted_relay import Act, ScriptedRelay
from tests.waiting import wait_for, within

if TYPE_CHECKING:
    from collections.abc import Iterator

SO_ATTACH_FILTER = 26  # of Linux; Python names neither
SO_DETACH_FILTER = 27
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF: take no byte of any packet


def _two_relays(jobs: Jobs, silent_url: str, good_url: str) -> Jobs:
    relays = {"silent": SecretStr(silent_url), "good": SecretStr(good_url)}
    settings = jobs.settings.model_copy(update={"relays": relays})
    return Jobs(jobs.database, settings, jobs.smtp_url)


@pytest.mark.parametrize("step", ["CONNECT", "MAIL", "DOT"])
async def test_forty_mails_to_a_silent_relay_hold_up_no_other_relays_mail(
    jobs: Jobs, relay: ScriptedRelay, step: str
) -> None:
    async with ScriptedRelay() as silent:
        silent.always(step, Act(gate=asyncio.Event()))
        both = _two_relays(jobs, silent.url(), relay.url())
        waiting = [asyncio.create_task(both.run(relay="silent")) for _ in range(40)]
        await silent.reached(step, 10)
        with within(5):
            assert isinstance(await both.run(relay="good"), Succeeded)
        for task in waiting:
            task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@contextmanager
def _silent_name_server(monkeypatch: pytest.MonkeyPatch, suffix: str) -> Iterator[list[str]]:
    """Lookups of names that end in `suffix` hang; gives the names that were looked up."""
    asked: list[str] = []
    answered = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).endswith(suffix):
            asked.append(str(host))
            answered.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return real(host, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        try:
            yield asked
        finally:
            answered.set()


async def test_a_silent_name_server_holds_up_only_the_relays_that_it_names(
    jobs: Jobs, relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = f"smtp://localhost:{relay.port}"
    both = _two_relays(jobs, "smtp://silent.example:25?connections=40&connect_timeout_s=2", good)
    with _silent_name_server(monkeypatch, "silent.example") as asked:
        waiting = [asyncio.create_task(both.run(relay="silent")) for _ in range(40)]
        await wait_for(lambda: asked)
        outcome = await asyncio.wait_for(both.run(relay="good"), 5)
        assert isinstance(outcome, Succeeded)
        outcomes = await asyncio.gather(*waiting)
    for each in outcomes:
        assert isinstance(each, Snooze)
        assert "timed out connecting" in each.reason
    assert asked == ["silent.example"]  # one lookup for all who want the same


async def test_the_next_address_of_a_relay_is_tried_where_the_first_refuses(
    jobs: Jobs, relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, **options: Any) -> Any:
        if host != "two.example":
            return real(host, port, **options)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("127.0.0.9", "127.0.0.1")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    jobs.smtp_url = f"smtp://two.example:{relay.port}"
    assert isinstance(await jobs.run(), Succeeded)


async def test_a_mail_for_which_no_connection_comes_free_goes_back_uncounted(
    jobs: Jobs, relay: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for its job's time-out, which cost it an attempt."""
    monkeypatch.setattr(pool, "LINE_PATIENCE_S", 0.2)
    jobs.smtp_url = relay.url(connections=1)
    gate = asyncio.Event()
    relay.next("MAIL", Act("250 2.1.0 OK", gate=gate))
    first = asyncio.create_task(jobs.run())
    await relay.reached("MAIL")
    job_id = ids.new()
    outcome = await jobs.run(job_id)
    assert isinstance(outcome, Snooze)
    assert "no connection became free" in outcome.reason
    assert await jobs.states(job_id) == ["pending"]
    async with jobs.database.connect() as connection:  # nothing is said against the relay
        states = await connection.execute(text("SELECT count(*) FROM relais.relay_states"))
        assert states.scalar_one() == 0
    gate.set()
    assert isinstance(await first, Succeeded)
    assert isinstance(await jobs.run(job_id, attempt=2), Succeeded)
    assert relay.connections == 1


def _deafen(peer: socket.socket) -> None:
    """From now on the kernel drops what comes in, so that the other side hears no ACK."""
    program = ctypes.create_string_buffer(DROP_ALL)
    peer.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, ctypes.addressof(program))
    )


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, until: bytes
) -> None:
    """A plain relay up to the line `until`, which it reads and does not answer."""
    writer.write(b"220 x\r\n")
    while (line := await reader.readline()) != until:
        writer.write(b"354 Go\r\n" if line == b"DATA\r\n" else b"250 x\r\n")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
async def test_a_half_open_connection_is_noticed_before_the_dot(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay's machine is gone without a word: nothing acknowledges what we send."""
    monkeypatch.setattr(smtp, "UNACKNOWLEDGED_S", 0.5)
    over = asyncio.Event()

    async def vanish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 x\r\n")
        await reader.readline()
        _deafen(writer.get_extra_info("socket"))
        writer.write(b"250 x\r\n")
        await over.wait()
        writer.transport.abort()

    async with await asyncio.start_server(vanish, "127.0.0.1", 0) as server:
        jobs.smtp_url = f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        outcome = await asyncio.wait_for(jobs.run(), 20)
        over.set()
    assert isinstance(outcome, RetryLater)
    assert "lost at mail: the connection broke" in outcome.reason


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs Linux")
async def test_a_network_that_fails_behind_the_dot_has_time_to_come_back(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "UNACKNOWLEDGED_S", 0.5)
    asked, go, deaf, back = (asyncio.Event() for _ in range(4))

    async def fade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _converse(reader, writer, until=b"DATA\r\n")
        asked.set()
        await go.wait()
        writer.write(b"354 Go\r\n")
        while await reader.readline() != b"Hello Ada\r\n":
            pass
        peer = writer.get_extra_info("socket")
        _deafen(peer)
        deaf.set()
        await back.wait()
        peer.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        assert await reader.readline() == b".\r\n"
        writer.write(b"250 2.0.0 Taken\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(fade, "127.0.0.1", 0) as server:
        jobs.smtp_url = f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        job_id = ids.new()
        async with jobs.database.connect() as other:
            running = asyncio.create_task(jobs.run(job_id))
            await asked.wait()
            await other.execute(
                text("SELECT FROM relais.messages WHERE job_id = :id FOR UPDATE"), {"id": job_id}
            )
            go.set()
            await deaf.wait()  # the dot waits for its mark, and the mark for us
            await other.rollback()

        async def has_sent_the_dot() -> bool:
            return await jobs.states(job_id) == ["dot_sent"]

        await wait_for(has_sent_the_dot)
        await asyncio.sleep(2)  # four times as long as a half-open connection gets before the dot
        assert not running.done()
        back.set()
        assert isinstance(await asyncio.wait_for(running, 20), Succeeded)
        await pool.close_all()
