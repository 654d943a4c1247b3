"""A pool of child processes that run one thing at a time and can be killed without regret.

Plain `def` handlers, jobs under which a worker died, and templates of strangers run here. A
child is started when it is first needed, kept warm, and ended after a minute without work. It
dies with its worker, even when that is killed with SIGKILL (Linux; elsewhere: when it next
looks at its socket).

RelaisError
└── IsolationError
    ├── TimedOut         the time was over; the child was killed
    ├── ChildDied        the child died by itself: a signal, an exit, out of memory
    └── HandlerRaised    the code raised; `report` has class, message and traceback

An error of `tasks.errors` raised in the child is raised again as itself, caused by HandlerRaised.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from typing import TYPE_CHECKING, Any, Self

from runtime import logs
from runtime.errors import RelaisError
from tasks import errors as task_errors
from tasks.outcomes import ErrorReport
from workers import frames
from workers.child_process import Child, EndOfChild, Role, spawn

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable

    from runtime.settings import Settings
    from tasks.context import Context
    from tasks.outcomes import Outcome

log = logs.logger("isolation")

IDLE_S = 60.0  # a warm child without work is ended after this long
START_S = 60.0  # imports on a busy machine
END_S = 2.0  # between closing a child's socket and killing it


class IsolationError(RelaisError):
    """A child process did not bring a result."""


class TimedOut(IsolationError):  # noqa: N818 - reads as the event it is
    """The time was over; the child was killed."""


class ChildDied(IsolationError):  # noqa: N818 - reads as the event it is
    """The child died by itself."""

    def __init__(self, what: str, *, returncode: int | None) -> None:
        self.signal = -returncode if returncode is not None and returncode < 0 else None
        self.exit_code = returncode if self.signal is None else None
        super().__init__(f"The process that ran {what} died: {self._cause()}.")

    def _cause(self) -> str:
        if self.signal is not None:
            return f"killed by {signal.Signals(self.signal).name}"
        if self.exit_code is not None:
            return f"it ended itself with exit code {self.exit_code}"
        return "it closed its connection or sent what is not an answer"


class HandlerRaised(IsolationError):  # noqa: N818 - reads as the event it is
    """The code that ran in the child raised."""

    def __init__(self, report: ErrorReport) -> None:
        super().__init__(f"{report.type}: {report.message}")
        self.report = report


def fields_of(context: Context) -> dict[str, Any]:
    """The part of `context` that can be told to another process."""
    local = {"settings", "database", "isolate", "still_owned"}
    names = (field.name for field in dataclasses.fields(context) if field.name not in local)
    return {**{name: getattr(context, name) for name in names}, "job_id": str(context.job_id)}


class IsolationPool:
    """At most `size` children for functions and `size` for kinds; belongs to one event loop."""

    def __init__(self, settings: Settings, *, size: int, idle_s: float = IDLE_S) -> None:
        self._settings = settings
        self._idle_s = idle_s
        self._slots: dict[Role, asyncio.Semaphore] = {
            "function": asyncio.Semaphore(size),
            "kind": asyncio.Semaphore(size),
        }
        self._idle: dict[Role, list[Child]] = {"function": [], "kind": []}
        self._ending: set[Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def call(
        self, function_name: str, arguments: dict[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        """The result of a function of `workers.functions`; waiting for a free child is not timed.

        Raises TimedOut, ChildDied, HandlerRaised or the error of `tasks.errors` that it raised.
        """
        request = {"name": function_name, "arguments": arguments}
        answer = await self._run("function", request, timeout_s=timeout_s, still_owned=None)
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
        answer = await self._run("kind", request, timeout_s=timeout_s, still_owned=still_owned)
        return frames.outcome_from_json(answer["outcome"])

    async def close(self) -> None:
        """End the idle children and wait for those that are being ended."""
        for children in self._idle.values():
            while children:
                self._end(children.pop())
        while self._ending:
            await asyncio.wait(self._ending)

    async def _run(
        self,
        role: Role,
        request: dict[str, Any],
        *,
        timeout_s: float,
        still_owned: Callable[[], bool] | None,
    ) -> dict[str, Any]:
        frame = frames.pack(request)
        async with self._slots[role]:
            child = self._take(role) or await self._start(role)
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await child.ask(frame, still_owned=still_owned)
            except TimeoutError:
                child.kill()
                self._end(child)
                sentence = f"{request['name']} was not done after {timeout_s:g} s and was killed."
                raise TimedOut(sentence) from None
            except EndOfChild:
                raise await self._obituary(child, what=request["name"]) from None
            except BaseException:  # cancelled, or `still_owned` raised
                child.kill()
                self._end(child)
                raise
            if answer.get("recycle"):
                self._end(child)
            else:
                self._keep(child)
        if "raised" in answer:
            _raise(answer["raised"])
        return answer

    def _take(self, role: Role) -> Child | None:
        idle = self._idle[role]
        while idle:
            child = idle.pop()  # the warmest
            child.rest.cancel()
            if child.is_alive():
                return child
            self._end(child)
        return None

    def _keep(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        child.rest = loop.call_later(self._idle_s, self._retire, child)
        self._idle[child.role].append(child)

    def _retire(self, child: Child) -> None:
        self._idle[child.role].remove(child)
        self._end(child)

    def _end(self, child: Child) -> None:
        child.rest.cancel()
        task = asyncio.create_task(child.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _obituary(self, child: Child, *, what: str) -> ChildDied:
        # It may have closed its socket and live on: then it is helped along.
        self._end(child)
        returncode = await child.wait_or_kill(END_S)
        log.warning("isolation.child_died", what=what, returncode=returncode)
        return ChildDied(what, returncode=returncode)

    async def _start(self, role: Role) -> Child:
        child = await spawn(role, self._settings)
        try:
            async with asyncio.timeout(START_S):
                answer = await frames.read(child.reader)
        except (EOFError, OSError):
            raise await self._obituary(child, what=f"{role}s, while it started,") from None
        except BaseException:
            child.kill()
            self._end(child)
            raise
        if "raised" in answer:
            self._end(child)
            _raise(answer["raised"])
        return child


def _raise(raised: dict[str, Any]) -> None:
    """Raise what was raised in the child."""
    told = HandlerRaised(ErrorReport(**raised["report"]))
    name = told.report.type.removeprefix("tasks.errors.")
    known = getattr(task_errors, name, None) if name.isidentifier() else None
    if "sentence" in raised and isinstance(known, type) and issubclass(known, RelaisError):
        raise known(raised["sentence"], remedy=raised["remedy"]) from told
    raise told
