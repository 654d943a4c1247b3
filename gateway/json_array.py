"""A JSON array, cut into its items without parsing it as a whole.

A parser keeps everybody waiting until it has read the last byte, and what it makes of sixteen
megabytes may take a gigabyte. Cut up, one item at a time is in memory, and others have their turn.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TURN_S = 0.005  # then others get a turn
LOOK_EVERY = 2_048  # tokens; the clock is not read in between
_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_BLANKS = b" \t\r\n"
_COMMA, _END = b",]"
_STEPS = {sign: step for signs, step in ((b"[{", 1), (b"]}", -1)) for sign in signs}


class Turn:
    """Keeps the event loop for a few milliseconds: `await turn.over()` where it may yield."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._until = clock() + TURN_S

    async def over(self) -> None:
        """Yield to others, if this turn is over."""
        if self._clock() >= self._until:
            await asyncio.sleep(0)
            self._until = self._clock() + TURN_S


def is_array(body: bytes) -> bool:
    """Whether it starts like one."""
    return body.lstrip(_BLANKS)[:1] == b"["


async def cut(body: bytes, *, items_max: int, turn: Turn) -> list[slice] | None:
    """Where the items of the array `body` are; None if it is not closed, or something follows it.

    No more than `items_max` + 1 are looked for. What stands between the brackets and commas is
    JSON or not: whoever parses the items finds out.
    """
    found: list[slice] = []
    depth = start = 0
    for number, token in enumerate(_TOKENS.finditer(body)):
        if number % LOOK_EVERY == 0:
            await turn.over()
        depth += _STEPS.get(body[token.start()], 0)
        is_end = depth == 0
        if depth == 1 and number == 0:
            start = token.end()
        elif is_end or (depth == 1 and body[token.start()] == _COMMA):
            found.append(slice(start, token.start()))
            start = token.end()
        if is_end or len(found) > items_max:
            break
    else:
        return None
    if is_end and (body[start:].strip(_BLANKS) or body[start - 1] != _END):
        return None
    if len(found) == 1 and not body[found[0]].strip(_BLANKS):
        found.clear()  # nothing between the brackets
    return found
