"""What was started, written down: a supervisor may die, its children need not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from signal import SIGKILL, Signals
from typing import TYPE_CHECKING

from ops.stack import documents, processes
from ops.stack.processes import Identity
from runtime import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

log = logs.logger("stack")

# Every process of the stack carries this in its environment, children included,
# so that what outlives its parent can be found and told from other programs.
MARK = "RELAIS_STACK"
_AFTER_KILL_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One started process and how to stop it."""

    path: Path
    name: str
    mark: str
    identity: Identity
    fingerprint: str
    stop_signal: Signals
    grace_s: float
    order: int
    restarts: int
    last_exit: str = ""
    last_exit_at: float | None = None

    def write(self) -> None:
        """Put it on disk."""
        content = {
            "name": self.name,
            "mark": self.mark,
            "pid": self.identity.pid,
            "started": self.identity.started,
            "fingerprint": self.fingerprint,
            "stop_signal": int(self.stop_signal),
            "grace_s": self.grace_s,
            "order": self.order,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "last_exit_at": self.last_exit_at,
        }
        documents.write(self.path, content)

    def stop(self) -> None:
        """Ask, wait out the grace, kill, and clear away what it left behind."""
        stop_all([self])


def read(path: Path) -> Record | None:
    """The record in `path`; None where there is none."""
    content = documents.read(path)
    if content is None:
        return None
    return Record(
        path=path,
        name=content["name"],
        mark=content["mark"],
        identity=Identity(content["pid"], content["started"]),
        fingerprint=content["fingerprint"],
        stop_signal=Signals(content["stop_signal"]),
        grace_s=content["grace_s"],
        order=content["order"],
        restarts=content["restarts"],
        last_exit=content["last_exit"],
        last_exit_at=content["last_exit_at"],
    )


def read_all(folder: Path) -> list[Record]:
    """Every record in `folder`, of live processes and dead ones."""
    found = (read(path) for path in sorted(folder.glob("*.service.json")))
    return [record for record in found if record is not None]


def stop_all(found: Iterable[Record], *, say: Callable[[str], None] = lambda _: None) -> None:
    """Stop processes, those of the highest order first, those of one order together."""
    remaining = list(found)
    for order in sorted({record.order for record in remaining}, reverse=True):
        level = [record for record in remaining if record.order == order]
        _stop_level(level, say)


def mark(scope: Path, name: str = "") -> str:
    """The mark of one service under the run folder `scope`; without a name, of any there.

    It ends with a colon, so that no name is the start of another.
    """
    return f"{scope}:{name}:" if name else f"{scope}:"


def clear_strays(mark: str) -> None:
    """Kill every process whose mark begins so: its parent is gone and nobody waits for it."""
    strays = processes.marked(MARK, mark)
    for stray in strays:
        stray.send(SIGKILL)
    for stray in strays:
        stray.wait(_AFTER_KILL_S)


def _stop_level(level: list[Record], say: Callable[[str], None]) -> None:
    asked_at = time.monotonic()
    for record in level:
        if record.identity.send(record.stop_signal):
            say(record.name)
    for record in level:
        left_s = record.grace_s - (time.monotonic() - asked_at)
        if not record.identity.wait(left_s):
            log.warning("stack.killed", name=record.name, grace_s=record.grace_s)
            record.identity.send(SIGKILL)
            record.identity.wait(_AFTER_KILL_S)
        clear_strays(record.mark)
        record.path.unlink(missing_ok=True)
