"""`relais logs`: what the services print."""

from __future__ import annotations

import difflib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli import screen
from ops.cli.options import Colour, DataDir

if TYPE_CHECKING:
    from ops.stack import Layout
    from ops.stack.logfiles import Follower

_LOOK_S = 0.2
_SAME_FOR_ALL = {"service", "colour", "process", "logger"}


def logs(
    service: Annotated[str | None, typer.Argument(help="One service; default: all.")] = None,
    *,
    follow_on: Annotated[
        bool, typer.Option("-f", "--follow", help="Keep printing new lines.")
    ] = False,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, help="How many lines to start with.")
    ] = 50,
    as_written: Annotated[
        bool,
        typer.Option("--json", help="Print JSON, as the services wrote it, on a terminal too."),
    ] = False,
    colour: Colour = None,
    data_dir: DataDir = None,
) -> int:
    """Print the last lines of the services' logs."""
    from ops.stack import find, logfiles

    place = find(data_dir, colour)
    files = _files(place, service)
    followers = [logfiles.Follower(path) for path in files] if follow_on else []
    width = max(len(path.stem) for path in files)
    for path in files:
        for line in logfiles.last_lines(path, lines):
            _print(path, line, width=0 if service else width, as_written=as_written)
    if follow_on:
        _follow(
            followers,
            width=0 if service else width,
            going_on=lambda: True,
            as_written=as_written,
        )
    return 0


def follow(place: Layout, *, going_on: Callable[[], bool]) -> None:
    """Print what all services write from now on, while `going_on()`."""
    from ops.stack import logfiles

    files = _files(place, None)
    width = max(len(path.stem) for path in files)
    _follow([logfiles.Follower(path) for path in files], width=width, going_on=going_on)


def _follow(
    followers: list[Follower],
    *,
    width: int,
    going_on: Callable[[], bool],
    as_written: bool = False,
) -> None:
    while going_on():
        for follower in followers:
            for line in follower.new_lines():
                _print(follower.path, line, width=width, as_written=as_written)
        sys.stdout.flush()
        time.sleep(_LOOK_S)


def _files(place: Layout, service: str | None) -> list[Path]:
    from ops.errors import StackError, UsageError

    found = {
        path.stem: path
        for folder in (place.shared_logs, place.logs)
        for path in sorted(folder.glob("*.log"))
    }
    if not found:
        sentence = f"There are no logs of {place.colour} in {place.data_dir}."
        raise StackError(sentence, remedy=f"Start the stack: {place.command('up')}")
    if service is None:
        return list(found.values())
    if service not in found:
        close = difflib.get_close_matches(service, found, n=1)
        remedy = f"Did you mean {close[0]}?" if close else f"Use one of: {', '.join(found)}."
        sentence = f"There is no log of a service {service!r}."
        raise UsageError(sentence, remedy=remedy)
    return [found[service]]


def _print(path: Path, line: str, *, width: int, as_written: bool) -> None:
    if sys.stdout.isatty() and not as_written:
        line = readable(line)
    line = screen.visible(line)
    print(f"{path.stem:<{width}} | {line}" if width else line)


def readable(line: str) -> str:
    """A JSON line of ours as time, level, action, message and fields; others as they are."""
    try:
        said = json.loads(line) if line.startswith("{") else None
    except ValueError:
        said = None
    if not isinstance(said, dict) or "action" not in said:
        return line
    time_of_day = str(said.pop("at", ""))[11:19]
    parts = [time_of_day, f"{said.pop('level', ''):<7}", str(said.pop("action"))]
    parts.append(" ".join(str(said.pop("message", "")).split()))
    fields = (
        f"{name}={' '.join(value.split()) if isinstance(value, str) else json.dumps(value)}"
        for name, value in said.items()
        if name not in _SAME_FOR_ALL and value not in (None, "")
    )
    return " ".join([*filter(None, parts), *fields])
