"""Ways for a handler to end that no handler should choose."""

from __future__ import annotations

import asyncio
import math
from typing import Any, Literal, NoReturn, cast, get_args

from tasks.outcomes import Failed, Outcome, RetryLater, Snooze, Succeeded

HUGE_BYTES = 8_000_000

Mode = Literal[
    "none", "dict", "surrogates", "nul", "nan", "object", "huge", "reason", "delay", "snooze",
    "error_surrogates", "error_repr", "base_exception", "system_exit", "cancelled",
]  # fmt: skip
MODES: tuple[Mode, ...] = get_args(Mode)


# What is only no plain text or number is made so, and kept: the work is done. A wait that is no
# number is a short one. Everything else fails, and says why.
ENDS: dict[Mode, str] = dict.fromkeys(MODES, "failed") | dict.fromkeys(
    ("surrogates", "nul", "nan", "snooze"), "succeeded"
)


class Unspeakable(Exception):  # noqa: N818 - never shown
    """Cannot be shown: whoever tries gets an error."""

    def __str__(self) -> NoReturn:
        raise ValueError("\ud800")  # noqa: EM101 - nobody reads it

    __repr__ = __str__


class Beyond(BaseException):
    """Not an Exception: what `except Exception` does not catch."""


def misbehave(mode: Mode, *, attempt: int) -> Outcome:  # noqa: C901, PLR0912 - one case a mode
    """Return or raise what `mode` says; a snooze once."""
    ending: Any = None
    match mode:
        case "none":
            pass
        case "dict":
            ending = {"result": "not an outcome"}
        case "surrogates":
            ending = Succeeded({"text": "\ud800"})
        case "nul":
            ending = Succeeded({"text": "\x00"})
        case "nan":
            ending = Succeeded({"number": math.nan})
        case "object":
            ending = Succeeded({"object": object()})
        case "huge":
            ending = Succeeded({"text": "x" * HUGE_BYTES})
        case "reason":
            ending = Failed("as it was told: \ud800")
        case "delay":
            ending = RetryLater("some day", delay_s=math.nan)
        case "snooze":
            ending = Succeeded() if attempt > 1 else Snooze(math.nan, "for a while")
        case "error_surrogates":
            raise ValueError("\ud800")  # noqa: EM101 - nobody reads it
        case "error_repr":
            raise Unspeakable
        case "base_exception":
            raise Beyond
        case "system_exit":
            raise SystemExit(3)
        case "cancelled":
            raise asyncio.CancelledError
    return cast(Outcome, ending)
