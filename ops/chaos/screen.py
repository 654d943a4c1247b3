"""A run on the terminal: how it goes, and what was found."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ops.chaos.play import Progress

LINES_EVERY_S = 10.0
FIGURES = (
    ("acknowledged", "jobs acknowledged"),
    ("lost", "lost"),
    ("unexpected", "unexpected"),
    ("duplicates_elsewhere", "duplicates outside the SMTP window"),
    ("duplicates_in_smtp_window", "duplicates inside the SMTP window"),
    ("callback_redeliveries", "callbacks delivered again under the same id"),
    ("illegal_histories", "illegal histories"),
    ("unbalanced", "entries where books and world differ"),
    ("faults_injected", "faults injected"),
    ("fault_kinds", "kinds of faults"),
    ("recovery_p99_s", "worker death to running elsewhere, p99, s"),
)


@contextmanager
def watching() -> Iterator[Callable[[Progress], None]]:
    """A live table on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield lambda progress: live.update(_table(progress))


def show(found: dict[str, Any]) -> None:
    """The figures of a run, and the first examples of what is wrong."""
    console = Console()
    table = Table(show_header=False, box=None)
    for name, words in FIGURES:
        if name in found:
            table.add_row(words, str(found[name]))
    console.print(table)
    for name, why in found.get("skipped", {}).items():
        console.print(Text(f"Not injected: {name} needs {why}.", style="bold yellow"))
    for name, sentences in found.get("examples", {}).items():
        for sentence in sentences:
            console.print(Text(f"{name}: {sentence}", style="red"))


def _table(progress: Progress) -> Table:
    table = Table(show_header=False, box=None)
    left_s = max(0.0, progress.ends_at - time.monotonic())
    table.add_row("phase", progress.phase + (f", {left_s:.0f} s left" if left_s else ""))
    table.add_row("attempted / acknowledged", f"{progress.attempted} / {progress.acknowledged}")
    table.add_row("requests repeated", str(progress.repeats))
    table.add_row("faults / kinds", f"{progress.struck} / {progress.kinds}")
    table.add_row("going wrong now", ", ".join(progress.under_way) or "nothing")
    if progress.open_jobs is not None:
        table.add_row("jobs open", str(progress.open_jobs))
    return table


def _lines() -> Callable[[Progress], None]:
    told_at = 0.0

    def tell(progress: Progress) -> None:
        nonlocal told_at
        if time.monotonic() - told_at < LINES_EVERY_S:
            return
        told_at = time.monotonic()
        print(
            f"{progress.phase}: {progress.acknowledged} of {progress.attempted} acknowledged, "
            f"{progress.struck} faults of {progress.kinds} kinds; "
            f"now {', '.join(progress.under_way) or 'nothing'}",
            file=sys.stderr,
        )

    return tell
