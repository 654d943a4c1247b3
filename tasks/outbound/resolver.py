"""Names to addresses, in threads of their own: a slow name server must not hold up the rest."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

THREADS = 8

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def system_resolve(host: str, port: int) -> list[str]:
    """The addresses of `host` as this machine resolves names; raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.run_in_executor(_threads(), _getaddrinfo, host, port)
    return [str(address[0]) for *_, address in found]


def _getaddrinfo(
    host: str, port: int
) -> list[tuple[object, object, object, object, tuple[str | int | bytes, ...]]]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="resolve")
