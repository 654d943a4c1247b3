"""What comes before a request is one: connections that say nothing, heads without end, guesses."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.authentication import Authentication
from gateway.callers import Caller
from gateway.connections import Connections
from gateway.errors import Problem
from gateway.tokens import Tokens
from ledger import api_keys
from tests.launcher import ROOT
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx
    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.gateway.process import Gateway

JOB: dict[str, Any] = {"kind": "test.scripted_async", "payload": {"mode": "ok"}}
CONNECTIONS_MAX = 600
SILENT = 1_000
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
MIB = 1_048_576
GUESSES = """
import asyncio, sys
from ledger import api_keys

async def guess(keys):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    for key in keys:
        head = f"GET /api/v1/jobs HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: Bearer {key}\\r\\n\\r\\n"
        writer.write(head.encode())
        answer = (await reader.readuntil(b"\\r\\n\\r\\n")).decode().lower()
        await reader.readexactly(int(answer.partition("content-length: ")[2].partition("\\r\\n")[0]))
        print(answer.split()[1])

async def main():
    keys = [[api_keys.mint() for _ in range(8)] for _ in range(500)]
    print("guessing", flush=True)
    await asyncio.gather(*map(guess, keys))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, str]:
    return {"RELAIS_GATEWAY_CONNECTIONS_MAX": str(CONNECTIONS_MAX)}


@pytest.fixture(scope="module", autouse=True)
def room_for_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def connected(
    gateway: Gateway,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.gateway_port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """The next answer: status, headers, body."""
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split()[1]), headers, body


async def told(gateway: Gateway, request: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """What a client that sends just these bytes is told."""
    async with connected(gateway) as (reader, writer):
        writer.write(request)
        status, headers, body = await answer(reader)
        return status, headers, json.loads(body)


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the other side has closed."""
    with suppress(ConnectionError):
        while await reader.read(65_536):
            pass
    return True


def memory_bytes(gateway: Gateway) -> int:
    assert gateway.process is not None
    status = Path(f"/proc/{gateway.process.pid}/status").read_text("ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


async def is_well(gateway: Gateway, quiet: tuple[float, float] = (0.0, 0.0)) -> tuple[float, float]:
    """How long a health check on a connection of its own and a caller take, in the median.

    Too long is more than a tenth of a second and a second, where a busy machine does not make
    `quiet` of that too.
    """
    checks, callers = [], []
    for _ in range(9):
        started = time.perf_counter()
        status, _, _ = await told(gateway, LIVE)
        checks.append(time.perf_counter() - started)
        assert status == 200
        started = time.perf_counter()
        body = json.dumps(JOB).encode()
        status, _, _ = await told(
            gateway,
            f"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {gateway.keys['producer']}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body,
        )
        callers.append(time.perf_counter() - started)
        assert status == 202
    found = statistics.median(checks), statistics.median(callers)
    if quiet != (0.0, 0.0):
        assert found[0] < max(0.1, 10 * quiet[0])
        assert found[1] < max(1.0, 10 * quiet[1])
    return found


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"X-Large: " + b"x" * 40_000, 431, "headers_too_large"),
        (b"\r\n".join(b"X-%d: y" % n for n in range(150)), 431, "headers_too_large"),
        (b"X: y\r\nNo colon", 400, "request_malformed"),
        (b"Content-Length: 3\r\nContent-Length: 4", 400, "request_malformed"),
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked", 400, "request_malformed"),
    ],
)
async def test_heads_beyond_the_limits_are_refused_with_a_sentence(
    gateway: Gateway, head: bytes, status: int, code: str
) -> None:
    found, headers, problem = await told(
        gateway, b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n"
    )
    assert (found, problem["code"]) == (status, code)
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_long_url_is_refused_and_an_ordinary_one_is_not(gateway: Gateway) -> None:
    status, _, problem = await told(
        gateway, b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert (status, problem["code"]) == (414, "url_too_long")
    status, _, problem = await told(
        gateway, b"GET /" + b"x" * 7_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert (status, problem["code"]) == (404, "path_unknown")


@pytest.mark.parametrize("trailer", [b"X: y\r\n" * 5_000, b"X: " + b"y" * 400_000])
async def test_trailers_without_end_are_refused(gateway: Gateway, trailer: bytes) -> None:
    async with connected(gateway) as (reader, writer):
        writer.write(
            f"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {gateway.keys['producer']}\r\n"
            f"Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n".encode()
            + trailer
        )
        status, headers, body = await answer(reader)
        assert (status, json.loads(body)["code"]) == (431, "headers_too_large")
        assert headers["connection"] == "close"


async def test_a_trailer_is_no_header(gateway: Gateway, api: httpx.AsyncClient) -> None:
    body = json.dumps(JOB).encode()
    request = (
        f"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {gateway.keys['producer']}\r\n"
        f"Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode()
        + body
        + b"\r\n0\r\nIdempotency-Key: from-a-trailer\r\n\r\n"
    )
    first, second = await told(gateway, request), await told(gateway, request)
    assert first[0] == second[0] == 202
    assert first[2]["id"] != second[2]["id"]


async def test_whoever_does_not_finish_a_head_is_let_go(gateway: Gateway) -> None:
    """In all, not from byte to byte: a head that comes drop by drop ends as well."""
    starts = (b"", b"GET /health/live HTTP/1.1\r\nX: ", LIVE + b"GET / HTTP/1.1\r\n")
    await asyncio.gather(*(drip_until_ended(gateway, start) for start in starts))


async def drip_until_ended(gateway: Gateway, drip: bytes) -> None:
    async with connected(gateway) as (reader, writer):
        writer.write(drip)
        started = time.monotonic()
        closed = asyncio.create_task(ended(reader))
        while not closed.done():
            assert time.monotonic() - started < 30, "still open"
            if drip:
                writer.write(b"x")
            await asyncio.wait({closed}, timeout=0.5)
        assert time.monotonic() - started > 5


async def test_pipelined_requests_are_answered_in_order_and_not_without_end(
    gateway: Gateway,
) -> None:
    async with connected(gateway) as (reader, writer):
        writer.write(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" + LIVE)
        assert [(await answer(reader))[0] for _ in range(2)] == [404, 200]
        writer.write(LIVE * 5_000)
        count = 0
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                assert (await answer(reader))[0] == 200
                count += 1
        assert 1 <= count < 5_000


async def test_what_is_wrong_behind_a_good_request_costs_it_no_answer(gateway: Gateway) -> None:
    async with connected(gateway) as (reader, writer):
        writer.write(LIVE + b"nonsense\r\n\r\n")
        assert (await answer(reader))[0] == 200
        assert await ended(reader)


async def test_a_client_that_closes_its_half_gets_its_answer(gateway: Gateway) -> None:
    async with connected(gateway) as (reader, writer):
        writer.write(LIVE)
        writer.write_eof()
        assert (await answer(reader))[0] == 200
        assert await ended(reader)


async def test_old_clients_and_refused_ones_can_go_on(gateway: Gateway) -> None:
    status, headers, _ = await told(gateway, b"GET /health/live HTTP/1.0\r\n\r\n")
    assert (status, headers["connection"]) == (200, "close")
    async with connected(gateway) as (reader, writer):
        for path, wanted in (("/nowhere", 404), ("/api/v1/jobs", 401), ("/health/live", 200)):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await answer(reader))[0] == wanted


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("is_late", [False, True])
async def test_who_would_rather_speak_http_2_is_answered_in_http_1(
    gateway: Gateway, is_chunked: bool, is_late: bool
) -> None:
    """Java's client asks for h2c in every first request, and sends the body all the same."""
    content = json.dumps(JOB).encode()
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content) if is_chunked else content
    framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}"
    head = (
        "POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {gateway.keys['producer']}\r\n{framing}\r\n"
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n\r\n"
    ).encode()
    async with connected(gateway) as (reader, writer):
        if is_late:
            writer.write(head)
            await asyncio.sleep(0.2)
            writer.write(body)
        else:
            writer.write(head + body + LIVE)  # what follows is not answered: it is closed
        status, headers, answered = await answer(reader)
        assert (status, headers["connection"]) == (202, "close"), answered
        assert await reader.read() == b""


async def test_a_client_of_http_1_0_is_sent_no_100(gateway: Gateway) -> None:
    """RFC 9110, 10.1.1: it would take it for the answer."""
    body = json.dumps(JOB)
    request = (
        "POST /api/v1/jobs HTTP/1.{}\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {gateway.keys['producer']}\r\nExpect: 100-continue\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    for version, wanted in ((0, 202), (1, 100)):
        async with connected(gateway) as (reader, writer):
            writer.write(request.replace("1.{}", f"1.{version}").encode())
            assert (await answer(reader))[0] == wanted


async def test_whoever_does_not_read_is_let_go_when_others_come(gateway: Gateway) -> None:
    quiet = await is_well(gateway)
    async with AsyncExitStack() as stack:
        before = memory_bytes(gateway)
        for _ in range(SILENT):
            _, writer = await stack.enter_async_context(connected(gateway))
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        await is_well(gateway, quiet)
        assert memory_bytes(gateway) - before < 512 * MIB


async def test_a_thousand_silent_connections_keep_nobody_out(gateway: Gateway) -> None:
    quiet = await is_well(gateway)
    async with AsyncExitStack() as stack:
        for _ in range(SILENT):
            await stack.enter_async_context(connected(gateway))
        await is_well(gateway, quiet)


async def test_endless_heads_take_no_memory(gateway: Gateway) -> None:
    quiet = await is_well(gateway)

    async def pour() -> None:
        async with connected(gateway) as (_, writer):
            with suppress(ConnectionError):
                writer.write(b"GET /health/live HTTP/1.1\r\nX: ")
                for _ in range(25):
                    writer.write(b"x" * MIB)
                    await writer.drain()

    before = memory_bytes(gateway)
    pouring = [asyncio.create_task(pour()) for _ in range(12)]
    await is_well(gateway, quiet)
    assert memory_bytes(gateway) - before < 32 * MIB
    await asyncio.gather(*pouring)


async def test_guessed_keys_keep_nobody_waiting(gateway: Gateway) -> None:
    quiet = await is_well(gateway)
    guessing = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", GUESSES, str(gateway.settings.gateway_port)),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert guessing.stdout is not None
    assert await guessing.stdout.readline() == b"guessing\n"
    await is_well(gateway, quiet)
    statuses, _ = await guessing.communicate()
    assert statuses.split() == [b"401"] * 4_000


class Counted(Connections):
    """Counts its calls."""

    calls = 0

    async def call(self, *args: Any, **kwargs: Any) -> Any:
        """One more."""
        self.calls += 1
        return await super().call(*args, **kwargs)


async def test_guesses_are_looked_up_together_and_a_key_among_them_is_found(
    gateway: Gateway, ledger: AsyncEngine
) -> None:
    ledger_calls = Counted(ledger, at_once=2)
    authentication = Authentication(ledger_calls, Tokens(gateway.settings))
    keys = [api_keys.mint() for _ in range(4_000)] + [gateway.keys["viewer"]]
    found = await asyncio.gather(
        *(authentication.identify([(b"x-api-key", key.encode())]) for key in keys),
        return_exceptions=True,
    )
    assert {type(each) for each in found[:-1]} == {Problem}
    assert isinstance(found[-1], Caller)
    assert ledger_calls.calls < 20


async def test_who_is_let_go_is_logged_once(gateway: Gateway) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(CONNECTIONS_MAX + 100):
            await stack.enter_async_context(connected(gateway))

        async def logged() -> list[str]:
            lines = gateway.log.read_text("utf-8").splitlines()
            return [line for line in lines if "gateway.connections_full" in line]

        lines = await wait_for(logged, what="a line about it")
        assert len(lines) < 5
