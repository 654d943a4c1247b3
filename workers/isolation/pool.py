"""A pool of child processes that run one thing at a time and can be killed safely.

Plain `def` handlers, jobs under which a worker died, and templates of strangers run here. A
child is forked when it is first needed, by a fork server that has done its imports; it is kept
warm, and ended after a minute without work. Fork servers die with their worker and children
with their fork server, even when that is killed with SIGKILL (Linux; elsewhere: when it next
looks at its socket).

How a run may end is drawn in `workers.isolation.errors`. An error of `tasks.errors` raised in the
child is raised again as itself, caused by HandlerRaised.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from typing import TYPE_CHECKING, Any, Self

from runtime.errors import RelaisError
from workers import reports
from workers.isolation import memory, protocol
from workers.isolation.errors import (
    ChildDied,
    HandlerRaised,
    Interrupted,
    IsolationError,
    TimedOut,
    raise_told,
)
from workers.isolation.handle import EndOfChild
from workers.isolation.warm_children import WarmChildren

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from runtime.settings import Settings
    from tasks.context import Context
    from tasks.outcomes import Outcome
    from workers.isolation.environment import Role
    from workers.isolation.handle import Reply

    Waiting = Callable[[], AbstractContextManager[None]]

__all__ = [
    "ChildDied",
    "HandlerRaised",
    "Interrupted",
    "IsolationError",
    "IsolationPool",
    "TimedOut",
    "fields_of",
]

IDLE_S = 60.0  # a warm child without work is ended after this long
SUSPECTS_MAX = 10_000  # more are not remembered


def fields_of(context: Context) -> dict[str, Any]:
    """The part of `context` that can be passed to another process."""
    local = {"settings", "database", "isolate", "still_owned"}
    names = (field.name for field in dataclasses.fields(context) if field.name not in local)
    return {**{name: getattr(context, name) for name in names}, "job_id": str(context.job_id)}


class IsolationPool:
    """At most `size` children for functions and `size` for kinds; belongs to one event loop.

    There are fewer where the memory for all of them would not do for so many (`memory`).
    """

    def __init__(
        self,
        settings: Settings,
        *,
        size: int,
        idle_s: float = IDLE_S,
        on_idle_death: Callable[[], None] | None = None,
    ) -> None:
        """`on_idle_death` is called when a child without work was ended by a signal."""
        self._settings = settings
        roles: tuple[Role, ...] = ("function", "kind")
        self._children: dict[Role, WarmChildren] = {
            role: WarmChildren(
                role,
                settings,
                size=memory.at_once(role, settings, wanted=size),
                idle_s=idle_s,
                on_idle_death=on_idle_death,
            )
            for role in roles
        }
        self._suspects: set[str] = set()  # ids of jobs during which a fork server died

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def warm(self) -> None:
        """Jobs that run alone are likely to come: do the imports in advance."""
        self._children["kind"].warm()

    async def call(
        self,
        function_name: str,
        arguments: dict[str, Any],
        timeout_s: float,
        *,
        waiting: Waiting = contextlib.nullcontext,
    ) -> dict[str, Any]:
        """The result of a function of `isolation.functions`; waiting for a child is not timed.

        It waits within `waiting()`, so that the caller can tell that time from the rest. Raises
        TimedOut, ChildDied, Interrupted, HandlerRaised or the error of `tasks.errors` that it
        raised.
        """
        request = {"name": function_name, "arguments": arguments}
        answer = await self._run(
            "function", request, timeout_s=timeout_s, reply=_unasked, waiting=waiting
        )
        result: dict[str, Any] = answer["result"]
        return result

    async def run_kind(
        self,
        kind_name: str,
        payload: dict[str, Any],
        context_fields: dict[str, Any],
        timeout_s: float,
        *,
        still_owned: Callable[[], bool] | None = None,
    ) -> Outcome:
        """The outcome of a kind's handler; `context_fields` as `fields_of` gives them.

        `still_owned` answers the child's `context.still_owned()`. Raises like `call`.
        """
        request = {"name": kind_name, "payload": payload, "context": context_fields}
        job_id: str = context_fields["job_id"]
        run = self._run_apart if job_id in self._suspects else self._run

        async def reply(asked: dict[str, Any]) -> dict[str, Any]:
            if asked["ask"] == "still_owned":
                return {"answer": still_owned is None or still_owned()}
            return await self._called(asked, timeout_s=timeout_s)

        try:
            answer = await run("kind", request, timeout_s=timeout_s, reply=reply)
        except Interrupted as interruption:
            if interruption.had_begun and len(self._suspects) < SUSPECTS_MAX:
                self._suspects.add(job_id)
            raise
        self._suspects.discard(job_id)
        return protocol.outcome_from_json(answer["outcome"])

    async def _called(self, asked: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """A function for a child of the role `kind`, which is no place for strangers' templates.

        Functions have children and slots of their own: nobody waits for himself.
        """
        try:
            result = await self.call(asked["name"], asked["arguments"], timeout_s)
        except RelaisError as error:
            return {"raised": reports.raised(error)}
        return {"answer": result}

    async def close(self) -> None:
        """Stop the idle children, wait for those that are stopping, stop the fork servers."""
        for children in self._children.values():
            await children.close()

    async def _run(
        self,
        role: Role,
        request: dict[str, Any],
        *,
        timeout_s: float,
        reply: Reply,
        waiting: Waiting = contextlib.nullcontext,
    ) -> dict[str, Any]:
        frame = protocol.pack(request)
        children = self._children[role]
        async with contextlib.AsyncExitStack() as slot:
            with waiting():
                await slot.enter_async_context(children.slots)
            child = await children.take()
            try:
                async with asyncio.timeout(timeout_s) as limit:
                    answer = await child.ask(frame, reply=reply)
            except TimeoutError:
                children.end(child, at_once=True)
                if not limit.expired():  # another limit, of what `reply` waited for
                    raise
                sentence = f"{request['name']} was not done after {timeout_s:g} s and was killed."
                raise TimedOut(sentence) from None
            except EndOfChild:
                raise await children.obituary(child, request["name"], had_begun=True) from None
            except BaseException:  # cancelled, or `reply` raised
                children.end(child, at_once=True)
                raise
            if answer.get("recycle"):
                children.end(child)
            else:
                children.keep(child)
        if "raised" in answer:
            raise_told(answer["raised"])
        return answer

    async def _run_apart(
        self,
        role: Role,
        request: dict[str, Any],
        *,
        timeout_s: float,
        reply: Reply,
    ) -> dict[str, Any]:
        """Run a suspect with a fork server of its own: if that dies too, the job killed it."""
        slots = self._children[role].slots
        async with slots, IsolationPool(self._settings, size=1) as apart:
            try:
                return await apart._run(role, request, timeout_s=timeout_s, reply=reply)
            except Interrupted as interruption:
                if not interruption.had_begun:
                    raise
                raise ChildDied(request["name"], returncode=-signal.SIGKILL) from interruption


async def _unasked(_asked: dict[str, Any]) -> dict[str, Any]:
    """Functions ask for nothing; one that does gets a meaningless answer."""
    return {}
