"""Connections to relays, kept open between messages; one pool per relay and event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from tasks.email import replies
from tasks.email.smtp import NoConversation, Session

if TYPE_CHECKING:
    from tasks.email.relays import Relay

# A job that waits longer for a connection gives its slot back: others may make better use of it.
LINE_PATIENCE_S = 60.0

_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Relay, Pool]] = WeakKeyDictionary()


def of(relay: Relay) -> Pool:
    """The pool of `relay` in the running event loop."""
    pools = _pools.setdefault(asyncio.get_running_loop(), {})
    if relay not in pools:
        pools[relay] = Pool(relay)
    return pools[relay]


async def close_all() -> None:
    """Say goodbye to every relay of the running event loop; takes two seconds at most."""
    pools = _pools.pop(asyncio.get_running_loop(), {})
    await asyncio.gather(*(pool.close() for pool in pools.values()))


def break_off(why: str) -> None:
    """Abort every running conversation of this event loop."""
    for pool in _pools.get(asyncio.get_running_loop(), {}).values():
        pool.break_off(why)


class Pool:
    """At most `relay.connections` sessions; callers that find none wait in line."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._idle: list[Session] = []
        self._in_use: set[Session] = set()
        self._open = 0
        self._line: deque[asyncio.Future[Session | None]] = deque()
        self._reaper: asyncio.TimerHandle | None = None

    async def acquire(self, *, fresh: bool = False) -> Session:
        """A session to use alone until `release`; raises NoConversation.

        `fresh`: not one that was kept, whose other end may be gone unnoticed.
        """
        session = await self._acquire(fresh=fresh)
        self._in_use.add(session)
        return session

    def break_off(self, why: str) -> None:
        """Abort the running conversations."""
        for session in self._in_use:
            session.break_off(why)

    async def _acquire(self, *, fresh: bool) -> Session:
        while True:
            if fresh and self._open >= self._relay.connections and self._idle:
                self._discard(self._idle.pop(0))
            kept = None if fresh else self._pop_idle()
            if kept is not None:
                return kept
            if self._open < self._relay.connections:
                return await self._connect()
            session = await self._wait_in_line()
            if session is not None:
                if not fresh:
                    return session
                self._discard(session)

    def release(self, session: Session) -> None:
        """Give a session back; one that is broken or has reached its limits is closed."""
        self._in_use.discard(session)
        if not session.is_usable:
            self._discard(session)
        elif self._is_worn(session):
            self._part_from(session)
        elif (waiter := self._next_in_line()) is not None:
            waiter.set_result(session)
        else:
            self._idle.append(session)
            if self._reaper is None:
                self._watch_idle()

    async def close(self) -> None:
        """Close the idle sessions politely; those in use are closed when they are released."""
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        idle, self._idle = self._idle, []
        self._open -= len(idle)
        await asyncio.gather(*(session.quit() for session in idle))

    async def _connect(self) -> Session:
        self._open += 1
        try:
            return await Session.open(self._relay)
        except BaseException as error:
            self._open -= 1
            if isinstance(error, NoConversation):
                # Otherwise those in line would each wait for the same failure, one after another.
                while (waiter := self._next_in_line()) is not None:
                    waiter.set_exception(NoConversation(error.result))
            else:
                self._call_next()
            raise

    async def _wait_in_line(self) -> Session | None:
        waiter: asyncio.Future[Session | None] = asyncio.get_running_loop().create_future()
        self._line.append(waiter)
        give_up = asyncio.get_running_loop().call_later(LINE_PATIENCE_S, _give_up, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                session = waiter.result()  # handed over at the very moment we were cancelled
                if session is None:
                    self._call_next()
                else:
                    self.release(session)
            raise
        finally:
            give_up.cancel()

    def _pop_idle(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if session.is_usable and not self._is_worn(session):
                return session
            self._discard(session)
        return None

    def _is_worn(self, session: Session) -> bool:
        age_s = time.monotonic() - session.opened_at
        return (
            session.messages >= self._relay.connection_max_messages
            or age_s >= self._relay.connection_max_age_s
        )

    def _discard(self, session: Session) -> None:
        session.hang_up()
        self._open -= 1
        self._call_next()

    def _part_from(self, session: Session) -> None:
        """A polite QUIT whose reply is not awaited."""
        session.say_quit()
        self._open -= 1
        self._call_next()

    def _call_next(self) -> None:
        waiter = self._next_in_line()
        if waiter is not None:
            waiter.set_result(None)

    def _next_in_line(self) -> asyncio.Future[Session | None] | None:
        while self._line:
            waiter = self._line.popleft()
            if not waiter.done():
                return waiter
        return None

    def _watch_idle(self) -> None:
        loop = asyncio.get_running_loop()
        self._reaper = loop.call_later(self._relay.connection_idle_s, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        oldest = time.monotonic() - self._relay.connection_idle_s
        for session in [s for s in self._idle if s.idle_since <= oldest or not s.is_usable]:
            self._idle.remove(session)
            self._part_from(session)
        if self._idle:
            self._watch_idle()


def _give_up(waiter: asyncio.Future[Session | None]) -> None:
    if not waiter.done():
        reason = f"no connection became free within {LINE_PATIENCE_S:g} s"
        waiter.set_exception(NoConversation(replies.Crowded(reason)))
