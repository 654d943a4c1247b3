"""One request to a guarded address: one connection, no redirects, no proxies, bounded answer."""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

import certifi
import httpcore

from tasks.errors import Unreachable
from tasks.outbound import resolver, target
from tasks.outbound.allow import AllowList
from tasks.outbound.guard import Guard
from tasks.outbound.network import PinnedNetwork, TooMuch

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Mapping, Sequence

    from runtime.settings import Settings
    from tasks.outbound.addresses import Address
    from tasks.outbound.resolver import Resolve
    from tasks.outbound.target import Target

ADDRESSES_MAX = 3  # tried one after the other
AROUND_MAX_BYTES = 262_144  # of headers and framing, in addition to a response's body


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to send; Host, Content-Length and Connection are ours."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes = b""
    connect_s: float = 10.0  # for all addresses of a host, TLS included
    total_s: float = 30.0
    answer_max_bytes: int = 65_536


@dataclass(frozen=True, slots=True)
class Response:
    """What came back; `body` ends at the limit where `is_cut`."""

    status: int
    headers: dict[str, str]  # lower-case names; the last of several
    body: bytes
    is_cut: bool


class Client:
    """Sends requests to addresses that callers choose."""

    def __init__(
        self,
        *,
        allow: Sequence[str] = (),
        resolve: Resolve = resolver.system_resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = Guard(AllowList.parse(allow), resolve)
        self._tls = tls

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The client of this process's settings."""
        return cls(allow=settings.outbound_allow)

    async def send(self, request: Request) -> Response:
        """Send one request and read its response, whatever its status.

        Raises BlockedAddress (permanent) or Unreachable (transient; `was_sent` tells whether the
        other side may have acted on the request).
        """
        to = target.parse(request.url)
        progress = _Progress()
        try:
            async with asyncio.timeout(request.total_s):
                addresses = await self._guard.check(to)
                return await self._exchange(to, addresses, request=request, progress=progress)
        except TimeoutError:
            sentence = f"{to.authority} did not respond within {request.total_s:g} s."
            raise Unreachable(sentence, was_sent=progress.was_sent) from None
        except httpcore.TimeoutException:
            sentence = f"{to.authority} did not accept a connection within {request.connect_s:g} s."
            raise Unreachable(sentence, was_sent=progress.was_sent) from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            what = str(error).rstrip(".") or type(error).__name__
            sentence = f"The request to {to.authority} failed: {what}."
            raise Unreachable(sentence, was_sent=progress.was_sent) from error

    async def _exchange(
        self, to: Target, addresses: Sequence[Address], *, request: Request, progress: _Progress
    ) -> Response:
        network = PinnedNetwork(
            addresses[:ADDRESSES_MAX], answer_max_bytes=request.answer_max_bytes + AROUND_MAX_BYTES
        )
        scheme, host = to.scheme.encode(), to.host.encode()
        connection = httpcore.AsyncHTTPConnection(
            origin=httpcore.Origin(scheme, host, to.port),
            ssl_context=self._tls or _default_tls(),
            network_backend=network,
        )
        sent = httpcore.Request(
            request.method,
            httpcore.URL(scheme=scheme, host=host, port=to.port, target=to.path.encode()),
            headers=_head(to, request),
            content=request.content,
            extensions={"timeout": {"connect": request.connect_s}, "trace": progress.note},
        )
        try:
            response = await connection.handle_async_request(sent)
            body, is_cut = await _read(response.aiter_stream(), request.answer_max_bytes)
        finally:
            await network.close()
        return Response(
            response.status,
            {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in response.headers
            },
            body,
            is_cut,
        )


class _Progress:
    """How far a request got, as httpcore tells it."""

    def __init__(self) -> None:
        self.was_sent = False

    async def note(self, event: str, _details: object) -> None:
        if event == "http11.send_request_headers.started":
            self.was_sent = True


def _head(to: Target, request: Request) -> list[tuple[str, str]]:
    return [
        ("Host", to.authority),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
        *([("Content-Length", str(len(request.content)))] if request.content else []),
        *request.headers.items(),
    ]


async def _read(chunks: AsyncIterable[bytes], max_bytes: int) -> tuple[bytes, bool]:
    body = bytearray()
    try:
        async for chunk in chunks:
            body += chunk
            if len(body) > max_bytes:
                return bytes(body[:max_bytes]), True
    except TooMuch:  # in tiny pieces: the framing is larger than its content
        return bytes(body), True
    return bytes(body), False


@lru_cache(maxsize=1)
def _default_tls() -> ssl.SSLContext:
    """The machine's certificates (SSL_CERT_FILE names others); certifi's where it has none."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    places = (os.environ.get("SSL_CERT_FILE"), paths.openssl_cafile, paths.openssl_capath)
    if not any(place and Path(place).exists() for place in places):
        context.load_verify_locations(certifi.where())
    return context
