"""The SSRF guard: which addresses a request may be sent to, decided anew on every attempt.

A host is resolved once, and only the addresses that passed are connected to: a name that
changes its answer between check and connection gains nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from tasks.errors import BlockedAddress, Unreachable
from tasks.outbound.addresses import Address, is_public, unmapped
from tasks.outbound.allow import AllowList
from tasks.outbound.target import DEFAULT_PORTS, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.outbound.resolver import Resolve
    from tasks.outbound.target import Target

RESOLVE_S = 5.0
PRIVILEGED_PORTS = range(1024)


@dataclass(frozen=True, slots=True)
class Guard:
    """Turns a target into the addresses that may be connected to."""

    allow: AllowList
    resolve: Resolve

    async def check(self, target: Target) -> tuple[Address, ...]:
        """The addresses of `target` that are open to it.

        Raises BlockedAddress (permanent) if there are none, Unreachable (transient) if the
        name cannot be resolved now.
        """
        return _permitted(self.allow, target, await self._addresses(target))

    async def _addresses(self, target: Target) -> list[Address]:
        try:
            return [unmapped(ip_address(target.host))]
        except ValueError:
            pass  # a name
        try:
            async with asyncio.timeout(RESOLVE_S):
                found = await self.resolve(target.host, target.port)
        except TimeoutError:
            sentence = f"{target.host} was not resolved within {RESOLVE_S:g} s."
            raise Unreachable(sentence) from None
        except (OSError, UnicodeError):
            sentence = f"{target.host} cannot be resolved."
            raise Unreachable(sentence) from None
        return list(dict.fromkeys(unmapped(ip_address(each)) for each in found))


def refuse_if_certain(url: str, *, allow: Sequence[str]) -> None:
    """Raise BlockedAddress if every attempt at `url` would, whatever names resolve to.

    `allow` as in RELAIS_OUTBOUND_ALLOW. Resolves no names: a name may pass here and be refused
    later.
    """
    target = parse(url)
    listed = _parsed(tuple(allow))
    if target.host == "localhost" or target.host.endswith(".localhost"):  # RFC 6761: loopback
        found = [ip_address("127.0.0.1"), ip_address("::1")]
    else:
        try:
            found = [unmapped(ip_address(target.host))]
        except ValueError:
            return
    _permitted(listed, target, found)


def _permitted(allow: AllowList, target: Target, found: Sequence[Address]) -> tuple[Address, ...]:
    permitted = tuple(each for each in found if _is_permitted(allow, target, each))
    if not permitted:
        sentence = f"{target.authority} is not on the public internet, and not allowed."
        raise BlockedAddress(sentence, remedy=_remedy(target))
    if not _is_port_permitted(allow, target, permitted):
        sentence = f"Port {target.port} of {target.host} is not a port for HTTP."
        raise BlockedAddress(sentence, remedy=_remedy(target))
    return permitted


def _is_permitted(allow: AllowList, target: Target, address: Address) -> bool:
    if is_public(address) or allow.covers(address, target.port):
        return True
    # A listed name covers whatever its owner lets it resolve to, but never many addresses.
    return allow.names(target.host, target.port) and not (
        address.is_multicast or address.is_unspecified
    )


def _is_port_permitted(allow: AllowList, target: Target, addresses: tuple[Address, ...]) -> bool:
    if target.port in DEFAULT_PORTS.values() or target.port not in PRIVILEGED_PORTS:
        return True
    return allow.names_port(target.host, addresses, target.port)


@lru_cache(maxsize=8)
def _parsed(allow: tuple[str, ...]) -> AllowList:
    return AllowList.parse(allow)


def _remedy(target: Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"To allow it, add {host}:{target.port} to RELAIS_OUTBOUND_ALLOW."
