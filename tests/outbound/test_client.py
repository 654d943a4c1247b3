from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tasks.errors import BlockedAddress, Unreachable
from tasks.outbound.client import Client, Request
from tests.outbound.peers import answer, babble, certificate, drop, hang, peer

if TYPE_CHECKING:
    from collections.abc import Mapping


def request(url: str, **changed: object) -> Request:
    return Request(**{"method": "POST", "url": url, "headers": {}, "total_s": 5.0, **changed})  # type: ignore[arg-type]


async def test_a_request_reaches_the_checked_address_with_its_own_host() -> None:
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async with peer(answer(200, b"hello")) as receiver:
        client = Client(allow=[f"n8n.internal:{receiver.port}"], resolve=resolve)
        url = receiver.url("/a?b=c", host="n8n.internal")
        got = await client.send(request(url, headers={"x-a": "b"}, content=b"{}"))
    assert (got.status, got.body, got.is_cut) == (200, b"hello", False)
    (received,) = receiver.requests
    assert received.line == "POST /a?b=c HTTP/1.1"
    assert received.headers == {
        "host": f"n8n.internal:{receiver.port}",
        "accept-encoding": "identity",
        "connection": "close",
        "content-length": "2",
        "x-a": "b",
    }
    assert asked == ["n8n.internal"]  # resolved once; nothing else looks it up


async def test_a_name_that_changes_its_answer_gains_nothing() -> None:
    """Checked on 127.0.0.2, rebound to 127.0.0.1 right after: the second is never contacted."""
    replies = iter([["127.0.0.2"], ["127.0.0.1"]])

    async def rebinding(_host: str, _port: int) -> list[str]:
        return next(replies)

    async with peer(answer(200)) as victim, peer(answer(200), host="127.0.0.2") as harmless:
        client = Client(allow=["127.0.0.2"], resolve=rebinding)
        await client.send(request(harmless.url(host="rebind.example")))
        assert len(harmless.requests) == 1
        with pytest.raises(BlockedAddress):  # the next attempt checks anew
            await client.send(request(victim.url(host="rebind.example")))
        assert victim.requests == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{}/", "http://localhost:{}/", "http://[::1]:{}/"]
)
async def test_what_is_not_allowed_is_never_contacted(url: str) -> None:
    async with peer(answer(200)) as inside:
        with pytest.raises(BlockedAddress, match="RELAIS_OUTBOUND_ALLOW"):
            await Client().send(request(url.format(inside.port)))
        assert inside.requests == []


async def test_redirects_are_not_followed() -> None:
    async with peer(answer(200)) as inside, peer(answer(302, Location=inside.url())) as outside:
        client = Client(allow=[f"127.0.0.1:{outside.port}"])
        assert (await client.send(request(outside.url()))).status == 302
        assert inside.requests == []


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(answer(502)) as proxy, peer(answer(200)) as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url(""))
        client = Client(allow=["127.0.0.1"])
        assert (await client.send(request(receiver.url()))).status == 200
        assert proxy.requests == []


async def test_an_endless_answer_is_cut() -> None:
    async with peer(babble) as receiver:
        got = await Client(allow=["127.0.0.1"]).send(
            request(receiver.url(), answer_max_bytes=10_000)
        )
    assert (len(got.body), got.is_cut) == (10_000, True)


async def test_an_endless_head_is_a_failure() -> None:
    async def endless_head(writer: asyncio.StreamWriter, _number: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Filler: " + b"x" * 1000 + b"\r\n")
            await writer.drain()

    async with peer(endless_head) as receiver:
        with pytest.raises(Unreachable):
            await Client(allow=["127.0.0.1"]).send(request(receiver.url()))


@pytest.mark.parametrize(
    "head", ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"]
)
async def test_a_flood_of_preliminary_answers_is_a_failure(head: str) -> None:
    """It kept a core busy for as long as a request may take, and everybody else's requests late."""

    async def flood(writer: asyncio.StreamWriter, _number: int) -> None:
        while True:
            writer.write(head.encode() * 1000)
            await writer.drain()

    async with peer(flood) as receiver:
        with pytest.raises(Unreachable, match="more than") as caught:
            await Client(allow=["127.0.0.1"]).send(request(receiver.url(), total_s=60))
    assert caught.value.was_sent


async def test_an_answer_in_crumbs_is_cut() -> None:
    async def crumble(writer: asyncio.StreamWriter, _number: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\nx\r\n" * 10_000)
            await writer.drain()

    async with peer(crumble) as receiver:
        client = Client(allow=["127.0.0.1"])
        got = await client.send(request(receiver.url(), total_s=60, answer_max_bytes=1_000_000))
    assert (got.status, got.is_cut) == (200, True)
    assert 10_000 < len(got.body) < 1_000_000


async def test_an_answer_of_the_largest_size_arrives_whole(tmp_path: Path) -> None:
    server, trusting = certificate(tmp_path, "127.0.0.1")
    content = b"x" * 262_144
    for tls in (None, server):
        async with peer(answer(200, content), tls=tls) as receiver:
            client = Client(allow=["127.0.0.1"], tls=trusting)
            url = receiver.url(scheme="https" if tls else "http")
            got = await client.send(request(url, answer_max_bytes=len(content)))
        assert (got.body, got.is_cut) == (content, False)


async def test_silence_ends_after_the_total_time() -> None:
    async with peer(hang) as receiver:
        with pytest.raises(Unreachable, match=r"within 0\.2 s") as caught:
            await Client(allow=["127.0.0.1"]).send(request(receiver.url(), total_s=0.2))
    assert caught.value.was_sent


async def test_a_drip_ends_after_the_total_time() -> None:
    async def drip(writer: asyncio.StreamWriter, _number: int) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" * 100:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    async with peer(drip) as receiver:
        with pytest.raises(Unreachable, match=r"within 0\.3 s"):
            await Client(allow=["127.0.0.1"]).send(request(receiver.url(), total_s=0.3))


async def test_a_dropped_connection_may_have_been_acted_on() -> None:
    async with peer(drop) as receiver:
        with pytest.raises(Unreachable) as caught:
            await Client(allow=["127.0.0.1"]).send(request(receiver.url()))
    assert caught.value.was_sent


async def test_nobody_there_was_not_acted_on() -> None:
    async with peer(drop) as receiver:
        url = receiver.url()
    with pytest.raises(Unreachable) as caught:
        await Client(allow=["127.0.0.1"]).send(request(url))
    assert not caught.value.was_sent


async def test_the_next_address_is_tried_where_the_first_refuses() -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.9", "127.0.0.1"]

    async with peer(answer(204)) as receiver:
        client = Client(allow=["127.0.0.0/8"], resolve=resolve)
        assert (await client.send(request(receiver.url(host="two.example")))).status == 204


async def test_a_slow_name_server_does_not_hold_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_host: str, _port: int) -> list[str]:
        await asyncio.sleep(3_600)
        raise AssertionError

    monkeypatch.setattr("tasks.outbound.guard.RESOLVE_S", 0.1)
    with pytest.raises(Unreachable, match="not resolved within"):
        await Client(resolve=never).send(request("http://slow.example/"))


@pytest.mark.parametrize("name", ["bücher.example", "plain.example"])
async def test_tls_speaks_to_the_name_and_checks_its_certificate(tmp_path: Path, name: str) -> None:
    ascii_name = name.encode("idna").decode()
    server, trusting = certificate(tmp_path, ascii_name)

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    async with peer(answer(200), tls=server) as receiver:
        allow = ["127.0.0.1"]
        client = Client(allow=allow, resolve=resolve, tls=trusting)
        assert (await client.send(request(receiver.url(host=name, scheme="https")))).status == 200
        assert receiver.server_names == [ascii_name]
        assert receiver.requests[0].headers["host"] == f"{ascii_name}:{receiver.port}"
        with pytest.raises(Unreachable, match="certificate"):
            await client.send(request(receiver.url(host="other.example", scheme="https")))
        with pytest.raises(Unreachable, match="certificate") as caught:  # unknown authority
            await Client(allow=allow, resolve=resolve).send(
                request(receiver.url(host=name, scheme="https"))
            )
        assert not caught.value.was_sent
        assert len(receiver.requests) == 1


async def test_hop_headers_of_callers_do_not_exist() -> None:
    headers: Mapping[str, str] = {"x-one": "1"}
    async with peer(answer(200)) as receiver:
        await Client(allow=["127.0.0.1"]).send(
            request(receiver.url(), method="GET", headers=headers)
        )
    assert "content-length" not in receiver.requests[0].headers
