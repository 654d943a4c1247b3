"""The proxy does what the faults rely on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from lab.chaos.proxy import Link, Proxy, Trap
from tests.waiting import wait_for

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """Answers every line with itself; remembers what arrived."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended = 0
        self.port = 0
        self.server: asyncio.Server | None = None

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.heard += line
                writer.write(line)
        except ConnectionError:
            pass
        finally:
            self.ended += 1
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo()
    await made.start()
    yield made
    assert made.server is not None
    made.server.close()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    made = Proxy(echo.port, forgets=re.compile(rb"over\n"))
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def streams(proxy: Proxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    yield reader, writer
    writer.close()


async def ask(streams: Streams, line: bytes, *, within_s: float = 5.0) -> bytes:
    streams[1].write(line)
    async with asyncio.timeout(within_s):
        return await streams[0].readline()


async def test_it_passes_on(streams: Streams) -> None:
    assert await ask(streams, b"hello\n") == b"hello\n"


async def test_the_end_is_passed_on(proxy: Proxy, streams: Streams) -> None:
    assert await ask(streams, b"hello\n") == b"hello\n"
    streams[1].close()
    await wait_for(lambda: not proxy.links, what="both sides are closed")


async def test_refusing_cuts_what_there_is_and_takes_nothing_new(
    proxy: Proxy, streams: Streams
) -> None:
    await ask(streams, b"hello\n")
    proxy.refuse()
    with pytest.raises(ConnectionError):
        await streams[0].readexactly(1)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    proxy.heal()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await ask((reader, writer), b"again\n") == b"again\n"
    writer.close()


async def test_swallowing_is_silence(proxy: Proxy, streams: Streams, echo: Echo) -> None:
    await ask(streams, b"hello\n")
    proxy.is_swallowing = True
    with pytest.raises(TimeoutError):
        await ask(streams, b"lost\n", within_s=0.2)
    assert b"lost" not in echo.heard
    proxy.heal()
    with pytest.raises(ConnectionError):
        await streams[0].readexactly(1)


async def test_one_silent_connection_is_half_open_until_it_is_cut(
    proxy: Proxy, streams: Streams, echo: Echo
) -> None:
    """Not even its end comes through; the others work."""
    await ask(streams, b"hello\n")
    (silent,) = proxy.links
    assert silent.hello == b"hello\n"
    silent.is_silent = True
    streams[1].write(b"lost\n")
    streams[1].close()
    await wait_for(lambda: proxy.tally["swallowed"] == 1, what="it is swallowed")
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await ask((reader, writer), b"fine\n") == b"fine\n"
    writer.close()
    await wait_for(lambda: proxy.links == {silent}, what="only the silent one is left")
    assert (echo.heard, echo.ended) == (b"hello\nfine\n", 1)
    silent.cut()
    await wait_for(lambda: echo.ended == 2, what="the server learns of its end")
    assert not proxy.links


async def test_a_trap_may_silence_a_connection(proxy: Proxy, streams: Streams, echo: Echo) -> None:
    proxy.traps.append(Trap("up", re.compile(rb"hush\n"), verdict="silence"))
    assert await ask(streams, b"hello\n") == b"hello\n"
    streams[1].write(b"hush\n")
    streams[1].write(b"more\n")
    await wait_for(lambda: proxy.tally["swallowed"], what="it is swallowed")
    assert echo.heard == b"hello\n"


async def test_what_is_held_arrives_though_its_sender_was_given_up(
    proxy: Proxy, streams: Streams, echo: Echo
) -> None:
    gone: list[bytes] = []

    async def give_up(link: Link) -> None:
        link.abandon()
        with pytest.raises(ConnectionError):
            await streams[0].readexactly(1)
        gone.append(echo.heard)

    proxy.traps.append(Trap("up", re.compile(rb"COMMIT\n"), callback=give_up))
    streams[1].write(b"COMMIT\n")
    await wait_for(lambda: echo.heard == b"COMMIT\n", what="it arrives")
    assert gone == [b""]


async def test_the_wire_gives_way_after_so_many_bytes(proxy: Proxy, streams: Streams) -> None:
    proxy.cut_after_bytes = 9
    assert await ask(streams, b"hi\n") == b"hi\n"
    with pytest.raises(ConnectionError):
        await ask(streams, b"hello\n")


async def test_a_trap_holds_the_bytes_while_its_callback_runs(
    proxy: Proxy, streams: Streams, echo: Echo
) -> None:
    heard: list[bytes] = []

    async def look(_: Link) -> None:
        heard.append(echo.heard)

    trap = Trap("up", re.compile(rb"now\n"), verdict="drop", callback=look)
    proxy.traps.append(trap)
    assert await ask(streams, b"not yet\n") == b"not yet\n"
    streams[1].write(b"now\n")
    await trap.sprung.wait()
    assert await ask(streams, b"after\n") == b"after\n"
    assert heard == [b"not yet\n"]
    assert echo.heard == b"not yet\nafter\n"


async def test_a_trap_that_only_looks_hides_nothing_from_others(
    proxy: Proxy, streams: Streams
) -> None:
    looks = Trap("up", re.compile(rb"now\n"), times=9)
    cuts = Trap("up", re.compile(rb"now\n"), verdict="cut")
    proxy.traps += [looks, cuts]
    streams[1].write(b"now\n")
    with pytest.raises(ConnectionError):
        await streams[0].readexactly(1)
    assert (looks.count, cuts.count) == (1, 1)


async def test_a_pattern_may_straddle_two_reads_and_counts_once(
    proxy: Proxy, streams: Streams
) -> None:
    trap = Trap("up", re.compile(rb"COMMIT\n"), times=5)
    proxy.traps.append(trap)
    streams[1].write(b"COM")
    await streams[1].drain()
    await wait_for(lambda: any(link.tails["up"] for link in proxy.links), what="the first half")
    assert await ask(streams, b"MIT\n") == b"COMMIT\n"
    assert await ask(streams, b"next\n") == b"next\n"
    assert trap.count == 1


async def test_a_trap_may_wait_for_what_the_server_said_before(
    proxy: Proxy, streams: Streams
) -> None:
    trap = Trap("up", re.compile(rb"go\n"), after=re.compile(rb"ready\n"), times=9)
    proxy.traps.append(trap)
    await ask(streams, b"go\n")
    assert trap.count == 0
    await ask(streams, b"ready\n")
    await ask(streams, b"go\n")
    assert trap.count == 1
    await ask(streams, b"over\n")  # what was said before is forgotten
    await ask(streams, b"go\n")
    assert trap.count == 1
