"""Connections: how many, how long, and who gets them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tasks.email import pool, relays
from tasks.email.smtp import NoConversation
from tests.email.scripted_relay import Act

if TYPE_CHECKING:
    from tasks.email.relays import Relay
    from tests.email.scripted_relay import ScriptedRelay


def at(relay: ScriptedRelay, **options: Any) -> Relay:
    return relays.parse("x", relay.url(**options))


async def test_no_more_connections_than_the_relay_allows(relay: ScriptedRelay) -> None:
    target = pool.of(at(relay, connections=2))
    first, second = await target.acquire(), await target.acquire()
    third = asyncio.create_task(target.acquire())
    await asyncio.sleep(0)
    assert not third.done()
    target.release(first)
    assert await third is first
    target.release(first)
    target.release(second)
    assert relay.connections == 2


async def test_whoever_waits_gets_the_place_of_a_broken_one(relay: ScriptedRelay) -> None:
    target = pool.of(at(relay, connections=1))
    session = await target.acquire()
    waiting = asyncio.create_task(target.acquire())
    await asyncio.sleep(0)
    session.hang_up()
    target.release(session)
    assert await waiting is not session


async def test_a_waiter_that_is_called_off_loses_nothing(relay: ScriptedRelay) -> None:
    target = pool.of(at(relay, connections=1))
    session = await target.acquire()
    first, second = (asyncio.create_task(target.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    target.release(session)  # handed to the first
    first.cancel()
    assert await second is session


async def test_a_failure_to_connect_is_told_to_all_in_line(relay: ScriptedRelay) -> None:
    gate = asyncio.Event()
    relay.next("CONNECT", Act("554 No", gate=gate))
    target = pool.of(at(relay, connections=1))
    tasks = [asyncio.create_task(target.acquire()) for _ in range(5)]
    await relay.reached("CONNECT")
    gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, NoConversation) for result in results)
    assert relay.connections == 1


async def test_a_called_off_connect_frees_its_place(relay: ScriptedRelay) -> None:
    gate = asyncio.Event()
    relay.next("CONNECT", Act("220 x", gate=gate))
    target = pool.of(at(relay, connections=1))
    connecting = asyncio.create_task(target.acquire())
    await relay.reached("CONNECT")
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    await target.acquire()


async def test_idle_connections_are_closed_with_a_quit(relay: ScriptedRelay) -> None:
    target = pool.of(at(relay, connection_idle_s=0.05))
    target.release(await target.acquire())
    await relay.reached("QUIT")


async def test_a_worn_connection_is_not_used_again(relay: ScriptedRelay) -> None:
    target = pool.of(at(relay, connection_max_age_s=0.000001))
    target.release(await target.acquire())
    target.release(await target.acquire())
    assert relay.connections == 2


async def test_closing_says_goodbye(relay: ScriptedRelay) -> None:
    target = pool.of(at(relay))
    sessions = [await target.acquire() for _ in range(3)]
    for session in sessions:
        target.release(session)
    await pool.close_all()
    assert relay.commands.count("QUIT") == 3
