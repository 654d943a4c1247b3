"""What a person sees: a bar while it runs, then a table, the tally and the addresses."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ops.cli import screen
from ops.demo.balance import FINISHED

if TYPE_CHECKING:
    from types import TracebackType

    from ops.demo.balance import Balance


LINES_EVERY_S = 2.0


class Bar:
    """Two bars on stderr; where that is no terminal, a line every two seconds."""

    def __init__(self, total: int) -> None:
        """`total` jobs will be handed over."""
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._total = total
        self._is_silent = not console.is_terminal
        self._told = time.monotonic()
        self._accepted = self._progress.add_task("accepted", total=total)
        self._finished = self._progress.add_task("finished", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, accepted: int, finished: int) -> None:
        """Move both bars."""
        self._progress.update(self._accepted, completed=accepted)
        self._progress.update(self._finished, completed=finished)
        if self._is_silent and time.monotonic() - self._told >= LINES_EVERY_S:
            self._told = time.monotonic()
            line = f"  ... {accepted:,} accepted, {finished:,} finished of {self._total:,} jobs"
            print(line, file=sys.stderr)


def results(
    balance: Balance,
    *,
    faults: list[str],
    seconds: float,
    urls: dict[str, str],
    login: str,
    stop: str,
    trace_id: str,
) -> None:
    """Print what happened, by queue, and whether everything adds up.

    `login` says how to get in where a password is asked for, `stop` is a command.
    """
    console = Console()
    table = Table("queue", *FINISHED, "open", title="What happened")
    for column in table.columns[1:]:
        column.justify = "right"
    for queue, states in sorted(balance.by_queue.items()):
        finished = [states.get(state, 0) for state in FINISHED]
        left = sum(states.values()) - sum(finished)
        table.add_row(queue, *(f"{count:,}" if count else "." for count in (*finished, left)))
    console.print(table)
    parts = " + ".join(f"{balance.count(state):,} {state}" for state in FINISHED)
    console.print(f"{balance.accepted:,} accepted = {parts} + {balance.open:,} open")
    console.print(
        f"{balance.messages_sent:,} messages sent = {balance.inbox:,} mails in the inbox,"
        f" {balance.duplicates:,} duplicates"
    )
    console.print(
        f"The inbox deferred {balance.deferred:,} at first and refused {balance.refused:,};"
        f" {balance.callbacks:,} signed callback arrived."
    )
    for fault in faults:
        console.print(Text(screen.visible(fault), style="red"))
    headline = (
        "[red]The figures do not add up.[/red]" if faults else "[green]Everything adds up.[/green]"
    )
    console.print(f"{headline} {seconds:.1f} s; trace {trace_id}", highlight=False)
    addresses = Table.grid(padding=(0, 2))
    for name, url in urls.items():
        addresses.add_row(name, url)
    console.print("\nThe stack stays up:", addresses, sep="\n")
    # Paths are copied: no line break of ours goes into them.
    console.print(f"{login}\nStop it: {stop}", soft_wrap=True)
