"""The open connections of a process: how many, and which of them make room for others.

A connection costs little while it waits for its client, and slow clients must not keep others out.
So no client is refused because of the number of connections: the one that has waited longest is
closed. Only if all of them have requests in progress are further requests refused, and even then
`/health/live` is answered.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from enum import IntEnum
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from runtime import logs

if TYPE_CHECKING:
    from gateway.http_connection import HttpConnection

log = logs.logger("gateway")

RESERVE = 64  # connections beyond the limit, to be refused politely, and for health checks
FILES_MAX = 256  # that the process itself has open: Postgres, Redis, logs
LOG_EVERY_S = 60.0


class Waits(IntEnum):
    """What a connection waits for; the earlier in this list, the earlier it makes room."""

    END = 0  # for the client to read the last response and close
    HEAD = 1  # for a complete request head
    NEXT = 2  # for another request, after a response
    TAKEN = 3  # for the client to read what it was sent


LIMITS_S = {Waits.END: 5.0, Waits.HEAD: 10.0, Waits.NEXT: 75.0, Waits.TAKEN: 30.0}


class OpenConnections:
    """Tracks every open connection, and since when it has been waiting for its client."""

    def __init__(self, *, at_most: int, per_address: int) -> None:
        """`per_address` is for clients that are not on this machine; 0: no such limit."""
        self._at_most = at_most
        self._per_address = per_address
        self._addresses: dict[HttpConnection, str] = {}
        self._counts: Counter[str] = Counter()
        # In the order in which they began to wait.
        self._waiting: dict[Waits, dict[HttpConnection, float]] = {state: {} for state in Waits}
        self._let_go = 0
        self._logged_at = -LOG_EVERY_S

    def opened(self, connection: HttpConnection, host: str | None) -> bool:
        """Admit it, closing others if it is one too many; whether there is room for it."""
        address = _address(host)
        self._addresses[connection] = address
        self._counts[address] += 1
        has_room = True
        if address and 0 < self._per_address < self._counts[address]:
            has_room = self._make_room(address)
        if len(self._addresses) > self._at_most + RESERVE:
            has_room = self._make_room() and has_room
        self.waits(connection, Waits.HEAD)
        return has_room

    def closed(self, connection: HttpConnection) -> None:
        """Forget it."""
        self.works(connection)
        address = self._addresses.pop(connection, None)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]

    def waits(self, connection: HttpConnection, state: Waits) -> None:
        """It is waiting for its client from now on."""
        if connection in self._addresses:
            self.works(connection)
            self._waiting[state][connection] = time.monotonic()
            connection.waits = state

    def works(self, connection: HttpConnection) -> None:
        """It has a request in progress."""
        if connection.waits is not None:
            self._waiting[connection.waits].pop(connection, None)
            connection.waits = None

    @property
    def are_busy(self) -> bool:
        """Whether more than the limit have requests in progress."""
        waiting = sum(map(len, self._waiting.values()))
        return len(self._addresses) - waiting > self._at_most

    def end_overdue(self) -> None:
        """Close those that have kept the gateway waiting for too long; called once a second."""
        now = time.monotonic()
        for state, waiting in self._waiting.items():
            overdue = []
            for connection, since in waiting.items():
                if now - since < LIMITS_S[state]:
                    break
                overdue.append(connection)
            for connection in overdue:
                connection.overdue(state)
        if self._let_go and now - self._logged_at >= LOG_EVERY_S:
            log.warning("gateway.connections_full", at_most=self._at_most, let_go=self._let_go)
            self._let_go, self._logged_at = 0, now

    def _make_room(self, address: str | None = None) -> bool:
        """Close the first in line to make room, of `address` or of all; False: there is none."""
        for waiting in self._waiting.values():
            for connection in waiting:
                if address is None or self._addresses[connection] == address:
                    self._let_go += 1
                    self.closed(connection)
                    connection.transport.abort()
                    return True
        return False


def limit(asked: int) -> int:
    """The limit on connections: `asked`, or as many as the process may open files for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return asked
    return max(1, min(asked, hard - FILES_MAX - RESERVE))


def _address(host: str | None) -> str:
    """The address that connections from `host` count against; empty: none, as for this machine."""
    try:
        address = ip_address(host or "")
    except ValueError:  # a Unix socket
        return ""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            # Providers give each customer a whole /64.
            return "" if address.is_loopback else str(IPv6Address(int(address) >> 64 << 64))
        address = address.ipv4_mapped
    return "" if address.is_loopback else str(address)
