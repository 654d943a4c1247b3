"""Which connection makes room for another, by address."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from gateway.open_connections import RESERVE, OpenConnections, Waits

if TYPE_CHECKING:
    from gateway.http_connection import HttpConnection


class Connection:
    """As much of a connection as the book-keeping sees."""

    def __init__(self) -> None:
        self.waits: Waits | None = None
        self.is_open = True
        self.transport = self

    def abort(self) -> None:
        self.is_open = False


def opened(connections: OpenConnections, host: str) -> tuple[HttpConnection, bool]:
    made = cast("HttpConnection", Connection())
    return made, connections.opened(made, host)


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::2:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("127.0.0.1", "127.0.0.1", False),
        ("::1", "::1", False),
        ("::ffff:127.0.0.1", "127.0.0.1", False),
    ],
)
def test_an_address_has_its_share_and_this_machine_no_limit(
    first: str, second: str, are_one: bool
) -> None:
    connections = OpenConnections(at_most=100, per_address=1)
    one, _ = opened(connections, first)
    two, has_room = opened(connections, second)
    assert has_room
    assert (one.transport.is_open, two.transport.is_open) == (not are_one, True)  # type: ignore[attr-defined]


def test_an_address_whose_requests_are_under_way_gets_no_further_connection() -> None:
    connections = OpenConnections(at_most=100, per_address=1)
    one, _ = opened(connections, "192.0.2.1")
    connections.works(one)
    _, has_room = opened(connections, "192.0.2.1")
    assert not has_room
    _, has_room = opened(connections, "192.0.2.2")
    assert has_room


def test_silent_ones_make_room_before_idle_ones_and_busy_ones_never() -> None:
    connections = OpenConnections(at_most=3, per_address=0)
    made = [opened(connections, "192.0.2.1")[0] for _ in range(3 + RESERVE)]
    idle, busy, *silent = made
    connections.waits(idle, Waits.NEXT)
    connections.works(busy)
    for gone in silent:
        opened(connections, "192.0.2.1")
        assert not gone.transport.is_open  # type: ignore[attr-defined]
    assert idle.transport.is_open  # type: ignore[attr-defined]
    assert busy.transport.is_open  # type: ignore[attr-defined]
