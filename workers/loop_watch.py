"""Whether the engine's event loop is responsive, as seen from a separate thread.

A handler that never yields stops every claim, finish and other handler of its worker, while the
heartbeat, which has a thread of its own, would go on saying that all is well.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import TYPE_CHECKING

from runtime import logs

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

log = logs.logger("engine")

STAMP_EVERY_S = 0.1
BLOCKED_S = 1.0  # a loop that was silent this long is reported as blocked
_LIBRARIES = ("/asyncio/", "/selectors.py", "/threading.py", "/runpy.py")


class LoopWatch:
    """Stamps the time inside the loop, checks from outside, and names what blocks it."""

    def __init__(self, *, queue: str, kind_of: Callable[[object], str | None]) -> None:
        """`kind_of` names the kind whose handler a task runs, from any thread."""
        self._queue = queue
        self._kind_of = kind_of
        self._stamp = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="loop watch", daemon=True)

    @property
    def silent_s(self) -> float:
        """For how long the loop has been silent; callable from any thread."""
        return time.monotonic() - self._stamp

    async def run(self, every_stamp: Callable[[], object]) -> None:
        """Stamp until cancelled; `every_stamp` is called along with it, in the loop."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._thread.start()
        try:
            while True:
                self._stamp = time.monotonic()
                every_stamp()
                await asyncio.sleep(STAMP_EVERY_S)
        finally:
            self._stop.set()

    def _look(self) -> None:
        say_at_s = BLOCKED_S
        while not self._stop.wait(STAMP_EVERY_S):
            silent_s = self.silent_s
            if silent_s < BLOCKED_S:
                say_at_s = BLOCKED_S
            elif silent_s >= say_at_s:
                say_at_s = 2 * silent_s
                log.warning(
                    "engine.blocked",
                    queue=self._queue,
                    kind=self._kind_of(asyncio.current_task(self._loop)),
                    seconds=round(silent_s, 1),
                    where=_where(sys._current_frames().get(self._loop_thread)),  # noqa: SLF001
                )


def _where(frame: FrameType | None) -> str | None:
    """The innermost line that is not part of the event loop's own code."""
    while frame is not None:
        name = frame.f_code.co_filename
        if not any(part in name for part in _LIBRARIES):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return None
