"""Connections to addresses that were checked, and to no others; what comes back is metered."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING

import httpcore

from tasks.errors import BlockedAddress
from tasks.outbound.addresses import unmapped

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Sequence

    from tasks.outbound.addresses import Address


READ_MAX_BYTES = 4_096  # at once: what is parsed before others get a turn


class TooMuch(httpcore.ReadError):
    """A response was larger than allowed."""


class PinnedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to `addresses`, in turn, whatever host it is asked for.

    Of an answer, heads and framing included, `answer_max_bytes` are read: whoever sends a million
    preliminary answers or crumbs of a body must not keep the process busy with them.
    """

    def __init__(self, addresses: Sequence[Address], *, answer_max_bytes: int) -> None:
        self._addresses = addresses
        self._answer_max_bytes = answer_max_bytes
        self._network = httpcore.AnyIOBackend()
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - a name could have changed its answer since the check
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A stream to the first address that answers; `timeout` is shared by all of them."""
        share_s = None if timeout is None else timeout / len(self._addresses)
        failure: Exception = httpcore.ConnectError("there is no address to connect to")
        for address in self._addresses:
            try:
                stream = await self._network.connect_tcp(
                    str(address), port, share_s, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            self._stream = stream
            _refuse_unless_peer_is(address, stream)
            return _Metered(stream, max_bytes=self._answer_max_bytes)
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts (there is one)."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the socket, whatever became of the request."""
        if self._stream is not None:
            await self._stream.aclose()


class _Metered(httpcore.AsyncNetworkStream):
    """A stream with a limit on what may be read."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, *, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._left = max_bytes

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """The next bytes; raises TooMuch."""
        if self._left <= 0:
            sentence = f"the answer has more than {self._max_bytes:,} bytes"
            raise TooMuch(sentence)
        data = await self._stream.read(min(max_bytes, READ_MAX_BYTES), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send bytes."""
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> httpcore.AsyncNetworkStream:
        """The same under TLS: the limit applies to the decrypted data."""
        secured = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        return _Metered(secured, max_bytes=self._max_bytes)

    def get_extra_info(self, info: str) -> object:
        """What is known of the connection."""
        return self._stream.get_extra_info(info)


def _refuse_unless_peer_is(address: Address, stream: httpcore.AsyncNetworkStream) -> None:
    peer = stream.get_extra_info("server_addr")
    if unmapped(ip_address(peer[0].partition("%")[0])) != address:
        sentence = f"The connection to {address} ended up at {peer[0]}."
        raise BlockedAddress(sentence)
