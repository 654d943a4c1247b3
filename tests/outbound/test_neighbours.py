"""One host's silence is nobody else's."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tasks.callbacks import Callback, call_back
from tasks.errors import Unreachable
from tasks.outbound import guard, resolver
from tasks.outbound.client import Client, Request
from tasks.outcomes import Succeeded
from tests.outbound.peers import answer, hang, peer
from tests.waiting import wait_for, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.outbound.conftest import MakeContext


class NameServer:
    """Answers 127.0.0.1 for every name, but for those that end in `silent.example`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.waits = threading.Event()
        self._real: Callable[..., Any] = socket.getaddrinfo

    def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        if not str(host).endswith(".example"):
            return self._real(host, port, **options)
        self.asked.append(host)
        if host.endswith("silent.example"):
            self.waits.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    yield server
    server.waits.set()


async def test_two_hundred_callbacks_to_a_silent_host_hold_up_no_other_hosts(
    make_context: MakeContext,
) -> None:
    async with peer(hang) as silent, peer(answer(200)) as good:
        context = make_context()
        payload = Callback(url=silent.url(), body={})
        waiting = [asyncio.create_task(call_back(payload, context)) for _ in range(200)]
        await wait_for(lambda: len(silent.requests) == 200)
        with within(5):
            callback = Callback(url=good.url(), body={})
            assert isinstance(await call_back(callback, context), Succeeded)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_two_hundred_callbacks_to_a_name_that_is_never_resolved_hold_up_no_others(
    make_context: MakeContext, names: NameServer
) -> None:
    """Each held one of eight threads until the machine gave up on the name server."""
    async with peer(answer(200)) as good:
        context = make_context(allow="good.example")
        lost = Callback(url="http://silent.example/", body={})
        waiting = [asyncio.create_task(call_back(lost, context)) for _ in range(200)]
        await wait_for(lambda: names.asked)
        found = Callback(url=good.url(host="good.example"), body={})
        assert isinstance(await call_back(found, context), Succeeded)
        assert names.asked.count("silent.example") == 1
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_many_names_of_one_silent_name_server_hold_up_no_others(names: NameServer) -> None:
    async with peer(answer(200)) as good:
        client = Client(allow=["good.example"])

        def request(url: str) -> Request:
            return Request(method="GET", url=url, headers={}, total_s=10)

        waiting = [
            asyncio.create_task(client.send(request(f"http://n{number}.silent.example/")))
            for number in range(200)
        ]
        await wait_for(lambda: len(names.asked) >= resolver.SITE_THREADS_MAX)
        answered = await client.send(request(good.url(host="good.example")))
        assert answered.status == 200
        assert len(names.asked) == resolver.SITE_THREADS_MAX + 1
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        # Those who gave up while they stood in line are not asked for later either.
        assert len(names.asked) == resolver.SITE_THREADS_MAX + 1
        names.waits.set()
        await client.send(request(good.url(host="good.example")))
        assert len(names.asked) == resolver.SITE_THREADS_MAX + 2
    assert all(isinstance(each, Unreachable) for each in outcomes)


async def test_whoever_comes_after_a_lookup_has_ended_asks_anew(
    names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "RESOLVE_S", 0.1)
    assert await resolver.system_resolve("good.example", 80) == ["127.0.0.1"]
    assert await resolver.system_resolve("good.example", 80) == ["127.0.0.1"]
    assert names.asked == ["good.example"] * 2
    with pytest.raises(Unreachable, match="not resolved within"):
        await Client().send(Request(method="GET", url="http://silent.example/", headers={}))
    names.waits.set()
    with pytest.raises(OSError, match="no answer"):
        await resolver.system_resolve("silent.example", 80)
