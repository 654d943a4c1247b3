"""CSV as spreadsheets write it, cut into rows while it arrives.

The delimiter is the one that the first line has most of. A row ends with a line unless a quote is
open; a quote that is never closed costs its own line and no other.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DELIMITERS = (",", ";", "\t", "|")
ROW_MAX = 65_536  # characters
ROW_LINES_MAX = 200  # a longer quoted field is a quote that was forgotten
_SEPARATOR = re.compile(r"sep=(.)", re.IGNORECASE)
_TOO_LONG = f"it has more than {ROW_MAX:,} characters"


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row: the number of its first line (from 1), and its cells."""

    line: int
    cells: list[str]


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that cannot be read, and why."""

    line: int
    reason: str


class CsvRows:
    """`feed` text, get rows; `close` at the end. Blank lines are left out."""

    def __init__(self) -> None:
        self.delimiter = ""
        self._rest = ""  # the beginning of a line
        self._is_too_long = False  # the line that `_rest` would be of; it is told already
        self._pending: deque[str] = deque()  # whole lines that nobody has looked at
        self._open: list[str] = []  # lines of a row whose quote is not closed
        self._quotes = self._size = 0  # of what is open
        self._line = 0  # the number of the last line looked at

    def feed(self, text: str) -> Iterator[CsvRow | BrokenRow]:
        """The rows that are whole by now."""
        text = self._rest + text
        # A lone CR ends a line too (old spreadsheets on a Mac); what follows the last one decides.
        held = "\r" if text.endswith("\r") else ""
        lines = text.removesuffix(held).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop() + held
        if self._is_too_long and lines:
            del lines[0]
            self._is_too_long = False
        self._pending.extend(lines)
        yield from self._look()
        if len(self._rest) > ROW_MAX:
            self._rest = ""
            if not self._is_too_long:
                self._is_too_long = True
                yield from self._leave_open()
                self._line += 1
                yield BrokenRow(self._line, _TOO_LONG)

    def close(self) -> Iterator[CsvRow | BrokenRow]:
        """The last rows."""
        if self._rest.removesuffix("\r") and not self._is_too_long:
            self._pending.append(self._rest.removesuffix("\r"))
        self._rest = ""
        yield from self._look()
        yield from self._leave_open()

    def _leave_open(self) -> Iterator[CsvRow | BrokenRow]:
        """Nothing comes that could close a quote."""
        while self._open:
            yield from self._give_up()
            yield from self._look()

    def _look(self) -> Iterator[CsvRow | BrokenRow]:
        while self._pending:
            line = self._pending.popleft()
            self._line += 1
            if not self.delimiter:
                named = _SEPARATOR.fullmatch(line)
                if line.strip():
                    self.delimiter = named[1] if named else _most_of(line)
                if named or not line.strip():
                    continue
            self._open.append(line)
            self._quotes += line.count('"')
            self._size += len(line) + 1
            if self._quotes % 2 == 0:
                yield from self._ended()
            elif self._size > ROW_MAX or len(self._open) > ROW_LINES_MAX:
                yield from self._give_up()

    def _ended(self) -> Iterator[CsvRow | BrokenRow]:
        first = self._line - len(self._open) + 1
        if self._size > ROW_MAX:
            self._forget()
            yield BrokenRow(first, _TOO_LONG)
            return
        text = "\n".join(self._open)
        try:
            [cells] = csv.reader([text + "\n"], delimiter=self.delimiter, strict=True)
        except (csv.Error, ValueError):
            yield from self._give_up()
            return
        self._forget()
        if text.strip():
            yield CsvRow(first, cells)

    def _give_up(self) -> Iterator[CsvRow | BrokenRow]:
        """The first open line is broken; the ones after it are looked at anew."""
        self._line -= len(self._open) - 1
        yield BrokenRow(self._line, "its quotes do not match")
        self._pending.extendleft(reversed(self._open[1:]))
        self._forget()

    def _forget(self) -> None:
        self._open.clear()
        self._quotes = self._size = 0


def _most_of(line: str) -> str:
    bare = re.sub(r'"[^"]*"', "", line)
    return max(DELIMITERS, key=lambda each: (bare.count(each), -DELIMITERS.index(each)))
