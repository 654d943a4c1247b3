"""A run on the terminal: how it goes, and what was found."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lab.chaos import timeline
from ops.cli.screen import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.chaos.play import Progress

LINES_EVERY_S = 2.5
FIGURES = (
    ("acknowledged", "jobs acknowledged"),
    ("lost", "lost"),
    ("unexpected", "unexpected"),
    ("duplicates_elsewhere", "duplicates outside the SMTP window"),
    ("duplicates_in_smtp_window", "duplicates inside the SMTP window"),
    ("callback_redeliveries", "callbacks delivered again under the same id"),
    ("illegal_histories", "illegal histories"),
    ("unbalanced", "entries where ledger and world differ"),
    ("innocent_failed", "innocent jobs failed"),
    ("late", "waits for somebody else's trouble beyond what is allowed"),
    ("faults_injected", "faults injected"),
    ("fault_kinds", "kinds of faults"),
    ("deliveries", "mails delivered"),
    ("duplicates", "mails delivered again"),
    ("of_these_still_in_redis", "of the lost, still in Redis as unacknowledged"),
)
TIMES = (
    ("worker_death", "worker's death -> its jobs run elsewhere"),
    ("postgres_back", "Postgres back -> first job finished"),
    ("redis_in_trouble", "Redis in trouble: accepted -> finished"),
    ("neighbour_wait", "another tenant floods: accepted -> running"),
)
WIDTH = 60


@contextmanager
def watching() -> Iterator[Callable[[Progress], None]]:
    """A live table on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield lambda progress: live.update(_table(progress))


def show(found: dict[str, Any], *, is_kept: bool | None) -> None:
    """The figures of a run, how it went, and examples of what is wrong; None: no promise made."""
    console = Console()
    figures = Table(show_header=False, box=None)
    for name, words in FIGURES:
        if name in found:
            figures.add_row(words, str(found[name]))
    console.print(figures)
    _show_times(console, found)
    _show_bounds(console, found.get("bounds", {}))
    _show_timeline(console, found.get("timeline", {}))
    for name, why in found.get("skipped", {}).items():
        console.print(Text(f"Not injected: {name} needs {why}.", style="bold yellow"))
    for name in found.get("kinds_not_met", ()):
        console.print(Text(f"Never met: {name}.", style="bold red"))
    for name, sentences in found.get("examples", {}).items():
        for sentence in sentences:
            console.print(Text(visible(f"{name}: {sentence}"), style="red"))
    if is_kept is not None:
        words, style = ("kept", "bold green") if is_kept else ("NOT kept", "bold red")
        console.print(Text(f"Every promise was {words}.", style=style))


def _show_times(console: Console, found: dict[str, Any]) -> None:
    times = Table("seconds", "count", "p50", "p99", "max", box=None, header_style="dim")
    for name, words in TIMES:
        if figures := found.get(name):
            cells = (figures[key] for key in ("count", "p50_s", "p99_s", "max_s"))
            times.add_row(words, *("-" if cell is None else str(cell) for cell in cells))
    if times.row_count:
        console.print(times)


def _show_bounds(console: Console, bounds: dict[str, dict[str, float | None]]) -> None:
    table = Table("others waited, seconds", "at most", "allowed", box=None, header_style="dim")
    for name, figures in bounds.items():
        longest = figures["longest_s"]
        table.add_row(name, "-" if longest is None else str(longest), str(figures["allowed_s"]))
    if table.row_count:
        console.print(table)


def _show_timeline(console: Console, found: dict[str, Any]) -> None:
    lines = Table(show_header=False, box=None)
    for name in ("accepted", "finished", "faults"):
        if values := found.get(name):
            lines.add_row(name, timeline.bars(values), f"up to {max(values)}")
    if lines.row_count:
        console.print(lines)
        console.print(Text(f"One bar is {found['every_s']:g} s.", style="dim"))


def _table(progress: Progress) -> Group:
    left_s = max(0.0, progress.ends_at - time.monotonic())
    total_s = progress.lasts_s
    bar = ProgressBar(total=total_s or 1.0, completed=total_s - left_s, width=WIDTH)
    table = Table(show_header=False, box=None)
    table.add_row("phase", progress.phase + (f", {left_s:.0f} s left" if left_s else ""))
    table.add_row("attempted / acknowledged", f"{progress.attempted} / {progress.acknowledged}")
    table.add_row("requests repeated", str(progress.repeats))
    table.add_row("faults / kinds", f"{progress.struck} / {progress.kinds}")
    table.add_row("going wrong now", ", ".join(progress.under_way) or "nothing")
    if progress.open_jobs is not None:
        table.add_row("jobs open", str(progress.open_jobs))
    # A line of its own below the bar: whatever is printed meanwhile must not run into it.
    return Group(table, Text(), bar)


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
