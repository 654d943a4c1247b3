"""Connections to addresses that were checked, and to no others."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING

import httpcore

from tasks.errors import BlockedAddress
from tasks.outbound.addresses import unmapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tasks.outbound.addresses import Address


class PinnedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to `addresses`, in turn, whatever host it is asked for."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses
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
            return stream
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts (there is one)."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the socket, whatever became of the request."""
        if self._stream is not None:
            await self._stream.aclose()


def _refuse_unless_peer_is(address: Address, stream: httpcore.AsyncNetworkStream) -> None:
    peer = stream.get_extra_info("server_addr")
    if unmapped(ip_address(peer[0].partition("%")[0])) != address:
        sentence = f"The connection to {address} ended up at {peer[0]}."
        raise BlockedAddress(sentence)
