"""What a service is: how it is started, asked, stopped, and what must be there before."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from signal import SIGTERM, Signals
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ops.stack.child import Command


class State(StrEnum):
    """Where a service stands; `status` prints these words."""

    WAITING = "waiting"  # for a service that it needs
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"  # runs, does not answer
    RESTARTING = "restarting"  # ended, waits out its backoff
    DONE = "done"  # ran once, successfully
    STOPPED = "stopped"


READY = frozenset({State.HEALTHY, State.DONE})


@dataclass(frozen=True, slots=True)
class Place:
    """A service's name, the folders of its log and its record, and whether colours share it."""

    name: str
    logs: Path
    run: Path
    shared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service. `healthy` is given the pid and how old an answer may be, in seconds.

    `command` is None for a service that somebody else runs (its `RELAIS_*_URL`
    is set): it is asked, never started or stopped. `needs` must be healthy
    before every start, `after` only before the first. The stack is ready
    without one that is `optional`. `order` is where it stands in the graph:
    lower starts earlier and stops later. What is `forked` runs a Python module, and shares
    what it imports with others (`fork_server`).
    """

    place: Place
    healthy: Callable[[int | None, float], bool] = lambda _pid, _age_s: True
    address: str = ""
    command: Callable[[], Command] | None = None
    running: Callable[[], int | None] = field(default=lambda: None)
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    once: bool = False
    optional: bool = False
    restart_when_hung: bool = True
    forked: bool = False
    stop_signal: Signals = SIGTERM
    grace_s: float = 10.0
    order: int = 0

    @property
    def name(self) -> str:
        """What `status` and `logs` call it."""
        return self.place.name

    @property
    def log(self) -> Path:
        """The file that takes its output."""
        return self.place.logs / f"{self.name}.log"

    @property
    def record(self) -> Path:
        """The file that says which process it is."""
        return self.place.run / f"{self.name}.service.json"


def fingerprint(command: Command) -> str:
    """Stands for how a process was started; another one must be restarted, not adopted.

    A hash, because the environment holds secrets.
    """
    relevant = {name: value for name, value in command.env.items() if name.startswith("RELAIS_")}
    text = json.dumps([command.words, relevant, command.account_id], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
