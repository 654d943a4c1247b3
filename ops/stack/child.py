"""Server processes: started apart from the terminal, watched, stopped, told apart from others."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from ops.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LOOK_S = 0.02
_TAIL_LINES = 8
_TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: the words, the whole environment, and the account (None: this one)."""

    words: tuple[str, ...]
    env: Mapping[str, str]
    account_id: int | None = None
    cwd: str = "/"

    def marked(self, variable: str, value: str) -> Command:
        """The same with one more variable."""
        return replace(self, env={**self.env, variable: value})


class Process(Protocol):
    """One that was started: a `Popen`, or what does the same for a forked one."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs; ChildProcessError where nobody knows any more."""


class Spawn(Protocol):
    """A way to start a process in a session of its own."""

    def __call__(self, command: Command, *, log: IO[bytes]) -> Process:
        """Start `command`, output appended to `log`."""


def spawn(command: Command, *, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, output appended to `log`.

    Its own session keeps a Ctrl-C at the terminal away from it: whoever started
    it decides the order in which things stop.
    """
    uid = command.account_id
    return subprocess.Popen(
        command.words,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
        env=dict(command.env),
        cwd=command.cwd,
    )


def wait_until(
    ready: Callable[[], bool],
    process: subprocess.Popen[bytes],
    *,
    name: str,
    log: Path,
    within_s: float,
) -> None:
    """Return when `ready()`; raise StackError with the log's end if it exits or takes too long."""
    deadline = time.monotonic() + within_s
    while not ready():
        if process.poll() is not None:
            sentence = f"{name} ended with {ending(process.returncode)}: {tail(log)}"
            raise StackError(sentence, remedy=f"See {log}.")
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            sentence = f"{name} did not respond within {within_s:.0f} s: {tail(log)}"
            raise StackError(sentence, remedy=f"See {log}.")
        time.sleep(_LOOK_S)


def stop(process: subprocess.Popen[bytes], how: signal.Signals, *, grace_s: float) -> None:
    """Send `how`, wait, and kill what is still there after the grace."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def runs(pid: int, program: str) -> bool:
    """Whether `pid` exists and is `program`; where the name cannot be read, that it exists."""
    try:
        name = (Path("/proc") / str(pid) / "comm").read_text().strip()
    except FileNotFoundError:
        return False if Path("/proc/self").exists() else _exists(pid)
    return name == program[:15]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def ending(returncode: int) -> str:
    """How a process ended, in words: `exit code 3` or `SIGKILL`."""
    if returncode < 0:
        return signal.Signals(-returncode).name
    return f"exit code {returncode}"


def tail(log: Path, *, lines: int = _TAIL_LINES, since: int = 0) -> str:
    """The last lines of a log after byte `since`, joined; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())
