"""Resolves names to addresses, for outgoing connections.

A name server that is silent holds up those who ask for its names, and nobody else: all who want
the same name share one lookup, lookups of one site have so many threads at most, and all of them
together are threads of their own, not those that the rest of the process works with.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from weakref import WeakKeyDictionary

THREADS_MAX = 64
SITE_THREADS_MAX = (
    16  # for names with the same ending: usually behind one name server, which may be silent
)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_all_lookups: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lookups] = WeakKeyDictionary()


async def system_resolve(host: str, port: int) -> list[str]:
    """The addresses of `host` as this machine resolves names; raises OSError.

    Takes as long as the machine allows a name server; whoever has less time leaves.
    """
    try:
        return [str(ip_address(host))]
    except ValueError:
        pass  # a name
    lookups = _all_lookups.setdefault(asyncio.get_running_loop(), _Lookups())
    return list(await lookups.of(host, port))


class _Lookups:
    """The lookups of one event loop."""

    def __init__(self) -> None:
        self._pending: dict[tuple[str, int], _Lookup] = {}
        self._sites: dict[str, _Site] = {}
        self._threads = asyncio.Semaphore(THREADS_MAX)

    async def of(self, host: str, port: int) -> list[str]:
        key = (host.lower(), port)
        lookup = self._pending.get(key)
        if lookup is None:
            lookup = self._pending[key] = _Lookup(*key)
            lookup.task = asyncio.create_task(self._look_up(lookup))
            lookup.task.add_done_callback(lambda _: self._forget(key, lookup))
        lookup.waiting += 1
        try:
            return await asyncio.shield(lookup.task)  # others may be waiting for it as well
        finally:
            lookup.waiting -= 1
            if not lookup.waiting and not lookup.is_under_way:
                self._forget(key, lookup)
                lookup.task.cancel()

    async def _look_up(self, lookup: _Lookup) -> list[str]:
        name = ".".join(lookup.host.rsplit(".", 2)[-2:])
        site = self._sites.setdefault(name, _Site())
        site.users += 1
        try:
            async with site.threads, self._threads:
                lookup.is_under_way = True
                return await _in_a_thread(lookup.host, lookup.port)
        finally:
            site.users -= 1
            if not site.users:
                del self._sites[name]

    def _forget(self, key: tuple[str, int], lookup: _Lookup) -> None:
        if self._pending.get(key) is lookup:
            del self._pending[key]
        if lookup.task.done() and not lookup.task.cancelled():
            lookup.task.exception()  # all waiters may have left


class _Lookup:
    """One name, and how many wait for its addresses."""

    task: asyncio.Task[list[str]]

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.waiting = 0
        self.is_under_way = False


class _Site:
    """Names with the same ending."""

    def __init__(self) -> None:
        self.threads = asyncio.Semaphore(SITE_THREADS_MAX)
        self.users = 0


async def _in_a_thread(host: str, port: int) -> list[str]:
    """Runs in a daemon thread: a lookup that hangs must not keep the process from ending."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def tell(addresses: list[str] | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(addresses or [])

    def ask() -> None:
        addresses, error = None, None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        except BaseException as raised:  # noqa: BLE001 - handed to whoever waits
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, addresses, error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    return await answer
