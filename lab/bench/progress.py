"""What a benchmark is doing at this moment, so that nobody takes it for hung."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LINES_EVERY_S = 2.5

Say = Callable[[str], None]


@contextmanager
def telling(*, is_silent: bool) -> Iterator[Say]:
    """A function that is told each step: a live line on a terminal, lines in time elsewhere."""
    if is_silent:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _live() as say:
            yield say
    else:
        with _lines() as say:
            yield say


@contextmanager
def _live() -> Iterator[Say]:
    from rich.console import Console  # noqa: PLC0415 - programs that read JSON do not pay for it
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda step: progress.update(task, description=step)


@contextmanager
def _lines() -> Iterator[Say]:
    """A line for each step, and again while it lasts."""
    step, began = "starting", time.monotonic()
    is_over = threading.Event()

    def say(new: str) -> None:
        nonlocal step
        step = new

    def repeat() -> None:
        while not is_over.wait(LINES_EVERY_S):
            print(f"{time.monotonic() - began:5.0f} s  {step}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield say
    finally:
        is_over.set()
        thread.join()
