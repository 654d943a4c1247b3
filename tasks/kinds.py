"""The registry of kinds: what a job may do, and how it is retried.

Add your own in ten lines (docs/kinds.md)::

    class Invoice(BaseModel):
        number: str


    @kind("invoice.print", payload=Invoice, queue="template")
    async def print_invoice(payload: Invoice, context: Context) -> Outcome:
        ...
        return Succeeded({"number": payload.number})

An `async def` handler runs in the worker's event loop. A plain `def` handler runs in its own
process, which is killed when the job times out; it may block or crash.
"""

from __future__ import annotations

import importlib
import inspect
import random
import re
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from ledger import lanes
from runtime import logs
from tasks.errors import KindError

if TYPE_CHECKING:
    from runtime.settings import Settings
    from tasks.context import Context
    from tasks.outcomes import Outcome

QUEUES = ("critical", "template", "bulk", "vector", "callback")
BUILTIN_MODULES = (
    "tasks.email.send",
    "tasks.templates.render",
    "tasks.callbacks",
    "tasks.workflows",
    "tasks.canary",
    "tasks.housekeeping",
)
ENTRY_POINT_GROUP = "relais.kinds"
_RANDOM = random.SystemRandom()
_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")

log = logs.logger("kinds")

Handler = Callable[[Any, "Context"], "Awaitable[Outcome] | Outcome"]
Requirements = Mapping[str, Callable[[Any, "Settings"], None]]
Dependence = Callable[[dict[str, Any]], str | None]
Registered = TypeVar("Registered", bound=Handler)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential with full jitter: uniform(0, min(cap_s, base_s * 2**(attempt - 1))).

    `schedule_s`, if given, replaces the exponential: the nth retry waits about its nth entry.
    """

    base_s: float = 2.0
    cap_s: float = 600.0
    schedule_s: tuple[float, ...] = ()

    def delay_s(self, *, tries: int, jitter: random.Random | None = None) -> float:
        """Seconds until the next try after `tries` that counted; full jitter keeps herds apart."""
        rng = jitter or _RANDOM
        if self.schedule_s:
            step = self.schedule_s[min(tries, len(self.schedule_s)) - 1]
            return rng.uniform(step * 0.8, step * 1.2)
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(tries - 1, 60))
        return rng.uniform(0.0, ceiling)


@dataclass(frozen=True, slots=True)
class Kind:
    """Everything Relais knows of one kind."""

    name: str
    payload: type[BaseModel]
    handler: Handler
    queue: str
    max_attempts: int
    timeout_s: float
    backoff: Backoff
    internal: bool  # not accepted from callers
    summary: str
    lane: Dependence | None = None  # what its jobs depend on, from the payload
    requires: Requirements = field(default_factory=dict)  # checks of fields against the settings
    hears_out: bool = False  # it continues past its timeout only to learn the result of its effect

    @property
    def is_isolated(self) -> bool:
        """Whether the handler runs in its own process (plain `def`)."""
        return not inspect.iscoroutinefunction(self.handler)


_REGISTRY: dict[str, Kind] = {}


def kind(
    name: str,
    *,
    payload: type[BaseModel],
    queue: str = "template",
    max_attempts: int = 8,
    timeout_s: float = 300.0,
    backoff: Backoff | None = None,
    internal: bool = False,
    lane: Dependence | None = None,
    requires: Requirements | None = None,
    hears_out: bool = False,
) -> Callable[[Registered], Registered]:
    """Register the decorated handler under `name` (lower case, dotted).

    `lane` names what a job depends on besides its tenant ("relay:main"), so that one peer's trouble
    only delays what depends on it. Pure and cheap; it is called for every valid payload.
    `requires` has, by field of the payload, a check that raises a RelaisError if its value is
    certain to fail under these settings: callers are told at intake. Pure and cheap as well.
    `hears_out`: a handler that was cancelled and still runs is waiting for a result, without
    which its effect would be repeated; it is not abandoned.
    """
    if not _NAME.fullmatch(name):
        message = f"Kind name {name!r} is not of the form 'noun.verb'."
        raise KindError(message, remedy="Use lower case words joined by dots.")
    if queue not in QUEUES:
        message = f"Kind {name!r} names the queue {queue!r}, which does not exist."
        raise KindError(message, remedy=f"Use one of {', '.join(QUEUES)}.")

    def register(handler: Registered) -> Registered:
        known = _REGISTRY.get(name)
        if known is not None and known.handler.__module__ != handler.__module__:
            message = f"Kind {name!r} is already defined in {known.handler.__module__}."
            raise KindError(message, remedy="Choose another name.")
        summary = (inspect.getdoc(handler) or "").split("\n\n", maxsplit=1)[0]
        _REGISTRY[name] = Kind(
            name=name,
            payload=payload,
            handler=handler,
            queue=queue,
            max_attempts=max_attempts,
            timeout_s=timeout_s,
            backoff=backoff or Backoff(),
            internal=internal,
            summary=summary,
            lane=lane,
            requires=requires or {},
            hears_out=hears_out,
        )
        return handler

    return register


def load(extra_modules: tuple[str, ...] = ()) -> dict[str, Kind]:
    """Import the built-in kinds, those of `extra_modules` and of installed entry points.

    Raises KindError, which names the file and the line, for a module that cannot be imported.
    """
    for module in BUILTIN_MODULES:
        importlib.import_module(module)
    for module in extra_modules:
        what = f"RELAIS_KINDS names the module {module!r}"
        _import(what, partial(importlib.import_module, module))
    for point in entry_points(group=ENTRY_POINT_GROUP):
        _import(f"The entry point {point.name!r} names the module {point.module!r}", point.load)
    return _REGISTRY


def _import(what: str, load_module: Callable[[], object]) -> None:
    try:
        load_module()
    except KindError:
        raise
    except ModuleNotFoundError as error:
        message = f"{what}, which cannot be imported: {error}."
        raise KindError(message, remedy="Correct the name, or PYTHONPATH.") from error
    except Exception as error:
        reason = f"{_place(error)}{type(error).__name__}: {_first_line(error)}"
        message = f"{what}, which cannot be imported: {reason}."
        raise KindError(message, remedy="Correct it in the module.") from error


def _first_line(error: Exception) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return (text.strip().splitlines() or ["no reason given"])[0].rstrip(".")


def _place(error: Exception) -> str:
    """`file:line: ` where it was raised, or where the syntax is wrong."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: "
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}: "


def get(name: str) -> Kind | None:
    """The kind called `name`, if it is registered."""
    return _REGISTRY.get(name)


def lane_of(name: str, tenant: str, payload: dict[str, Any]) -> str:
    """The lane of a job of kind `name`: the tenant's, or that of what the job depends on."""
    kind = _REGISTRY.get(name)
    if kind is None or kind.lane is None:
        return lanes.name(tenant)
    try:
        dependence = kind.lane(payload)
    except Exception as error:  # noqa: BLE001 - a user's kind; its job is taken all the same
        log.warning("kind.lane_failed", kind=name, error=type(error).__name__)
        return lanes.name(tenant)
    return lanes.name(tenant, dependence if isinstance(dependence, str) else None)
