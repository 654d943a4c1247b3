"""`relais up`: start the local stack, here or in the background."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.cli.options import Colour, DataDir, PortBase

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from ops.stack import Layout


def up(
    *,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return as soon as everything is healthy.")
    ] = False,
    colour: Colour = None,
    data_dir: DataDir = None,
    port_base: PortBase = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Only this service and what it needs; repeatable."),
    ] = None,
) -> int:
    """Start the local stack: Postgres, Redis, inbox, gateway, workers, beat, Flower.

    In the foreground it shows the services' output, and Ctrl-C stops them.
    """
    from ops.cli import logs, screen
    from ops.errors import StackError
    from ops.stack import control, find

    console = screen.console()
    place = find(data_dir, colour, port_base)
    began = time.monotonic()
    was_running = control.is_running(place)
    for how in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(how, _interrupt)
    # One block around everything: a signal between two steps must not leave the stack running.
    is_ready = False
    try:
        if was_running:
            _refuse_others(place, only=tuple(only or ()), port_base=port_base)
        control.start(place, only=tuple(only or ()), warn=lambda text: print(text, file=sys.stderr))
        _watch_until_ready(console, place)
        is_ready = True
        _show(console, place, took_s=None if was_running else time.monotonic() - began)
        if detach or was_running:
            return 0
        console.print("Ctrl-C stops the stack.", style="dim")
        logs.follow(place, going_on=lambda: control.is_running(place))
    except (StackError, KeyboardInterrupt) as error:
        ours = not was_running and not (detach and is_ready)
        # Detached, what did come up stays up: the message says how to inspect and stop it.
        if ours and not (detach and isinstance(error, StackError)):
            console.print("Stopping ...", style="dim")
            control.down(place, say=lambda name: console.print(f"stopped {name}", style="dim"))
        if ours and is_ready and isinstance(error, KeyboardInterrupt):
            return 0
        raise
    sentence = "The stack was stopped by another command."
    raise StackError(sentence, remedy=f"See {place.command('status')}.")


def _refuse_others(place: Layout, *, only: tuple[str, ...], port_base: int | None) -> None:
    """Raise StackError if the running stack differs from what is requested now."""
    from ops.errors import StackError
    from ops.stack import control

    differing = control.differences(place, only=only, port_base=port_base)
    if differing:
        options = "".join(f" --only {name}" for name in only)
        sentence = f"{place.colour} is already running with a different {', '.join(differing)}."
        remedy = f"Restart it: {place.command('down')} && {place.command(f'up{options}')}"
        raise StackError(sentence, remedy=remedy)


def _watch_until_ready(console: Console, place: Layout) -> None:
    from rich.live import Live

    from ops.cli import table
    from ops.stack import control

    if not console.is_terminal:
        control.wait_ready(place, watch=control.telling(lambda line: print(line, file=sys.stderr)))
        return
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        show: Callable[[dict[str, Any]], None] = lambda seen: live.update(  # noqa: E731
            table.of(seen["services"])
        )
        control.wait_ready(place, watch=show)


def _show(console: Console, place: Layout, *, took_s: float | None) -> None:
    from ops.cli import screen, table
    from ops.stack import report

    seen = report.make(place)
    screen.show(console, table.of(seen["services"]))
    how = "was already up" if took_s is None else f"is up after {took_s:.1f} s"
    console.print(f"{place.colour} {how}: {seen['urls'].get('gateway', place.data_dir)}")


def _interrupt(_number: int, _frame: object) -> None:
    # A second signal must not interrupt the orderly stop.
    for how in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(how, signal.SIG_IGN)
    # Not SIGINT: a shell that starts us in the background sets it to ignored.
    raise KeyboardInterrupt
