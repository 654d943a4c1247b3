"""What RELAIS_OUTBOUND_ALLOW allows."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING, Self

from runtime.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.outbound.addresses import Address, Network


@dataclass(frozen=True, slots=True)
class AllowList:
    """Hosts and networks, each with the one port that is open or None for all."""

    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[tuple[Network, int | None], ...] = ()

    @classmethod
    def parse(cls, entries: Sequence[str]) -> Self:
        """Read `host`, `address`, `network/bits`, each with or without `:port` (`[v6]:port`)."""
        hosts: set[tuple[str, int | None]] = set()
        networks: list[tuple[Network, int | None]] = []
        for entry in entries:
            host, port = _host_and_port(entry)
            try:
                networks.append((ip_network(host, strict=False), port))
            except ValueError:
                if not host or not set("/[]: \t").isdisjoint(host):
                    sentence = f"RELAIS_OUTBOUND_ALLOW: {entry!r} cannot be parsed."
                    remedy = "Write hosts, host:port, addresses or networks such as 10.1.0.0/16."
                    raise SettingsError(sentence, remedy=remedy) from None
                hosts.add((host.removesuffix(".").lower(), port))
        return cls(frozenset(hosts), tuple(networks))

    def names(self, host: str, port: int) -> bool:
        """Whether the host is listed by its name."""
        return (host, None) in self.hosts or (host, port) in self.hosts

    def covers(self, address: Address, port: int) -> bool:
        """Whether the address is listed, by itself or within a network."""
        return any(of in {None, port} and address in network for network, of in self.networks)

    def names_port(self, host: str, addresses: Sequence[Address], port: int) -> bool:
        """Whether this very port is listed with the host or with one of its addresses."""
        return (host, port) in self.hosts or any(
            of == port and address in network
            for network, of in self.networks
            for address in addresses
        )


def _host_and_port(entry: str) -> tuple[str, int | None]:
    if entry.startswith("[") and "]" in entry:
        host, _, port = entry[1:].partition("]")
        return (host, int(port[1:])) if port[1:].isdecimal() else (host + port, None)
    host, _, port = entry.rpartition(":")
    if host and ":" not in host and port.isdecimal():
        return host, int(port)
    return entry, None
