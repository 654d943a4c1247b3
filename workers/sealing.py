"""What a handler returned, made fit for the ledger in the slot that ran it.

A handler may return anything. Here it becomes an outcome of the closed set that Postgres is certain
to accept: plain JSON in UTF-8 without NUL, NaN and lone surrogates, no deeper than its readers can
parse, no larger than `RELAIS_OUTCOME_MAX_BYTES`. So nothing can fail in the batch that writes it
together with its neighbours.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from tasks.outcomes import (
    Cancelled,
    ErrorReport,
    Failed,
    Outcome,
    RetryLater,
    Snooze,
    Succeeded,
    Unknown,
)

# Readers wrap a result in a few more levels (a callback's body, say) and parse 200 at most.
DEPTH_MAX = 128
DELAY_MAX_S = 10 * 365 * 86_400.0  # still a date that Postgres can represent
SNOOZE_S = 30.0  # if the delay of a snooze is not a number
REASON_MAX_BYTES = 16_384
NAME_MAX_BYTES = 512
TRACEBACK_MAX_BYTES = 65_536
OUTCOMES = (Succeeded, RetryLater, Snooze, Failed, Cancelled, Unknown)


@dataclass(frozen=True, slots=True)
class Sealed:
    """An outcome that can be written as it is, and roughly how many bytes it takes."""

    outcome: Outcome
    size_bytes: int


class _Unfit(Exception):  # noqa: N818 - an event, told in the reason of the outcome
    """A result that cannot be kept; its text ends the sentence "its result ..."."""


_NOTHING = Sealed(Succeeded(), 0)


def sealed(returned: object, *, max_bytes: int) -> Sealed:
    """`returned` as an outcome that the ledger accepts; a result that does not fit is a failure."""
    if type(returned) is Succeeded and returned.result is None:
        return _NOTHING
    try:
        return _sealed(returned, max_bytes=max_bytes)
    except BaseException as error:  # noqa: BLE001 - properties and iterators of anyone's objects
        return _failed(f"its outcome could not be read: {type_name(error)}")


def _sealed(returned: object, *, max_bytes: int) -> Sealed:
    match returned:
        case Succeeded(result=result):
            try:
                kept, size_bytes = _result(result, max_bytes=max_bytes)
            except _Unfit as unfit:
                return _failed(f"it succeeded, but its result {unfit}")
            return Sealed(Succeeded(kept), size_bytes)
        case RetryLater():
            reason = plain_text(returned.reason, max_bytes=min(REASON_MAX_BYTES, max_bytes))
            error, size_bytes = _error(returned.error, max_bytes=max_bytes)
            wait_s = None if returned.delay_s is None else bounded_delay_s(returned.delay_s)
            return Sealed(RetryLater(reason, wait_s, error), size_bytes + len(reason))
        case Snooze():
            wait_s = bounded_delay_s(returned.delay_s)
            reason = plain_text(returned.reason, max_bytes=min(REASON_MAX_BYTES, max_bytes))
            return Sealed(Snooze(SNOOZE_S if wait_s is None else wait_s, reason), len(reason))
        case Cancelled():
            reason = plain_text(returned.reason, max_bytes=min(REASON_MAX_BYTES, max_bytes))
            return Sealed(Cancelled(reason), len(reason))
        case Failed() | Unknown():
            return _ended(returned, max_bytes=max_bytes)
    return _failed(_not_an_outcome(returned))


def _ended(outcome: Failed | Unknown, *, max_bytes: int) -> Sealed:
    """A failure stays a failure, whatever comes with it."""
    note = ""
    try:
        result, size_bytes = _result(outcome.result, max_bytes=max_bytes)
    except _Unfit as unfit:
        note, result, size_bytes = f" (its result {unfit})", None, 0
    room_bytes = min(REASON_MAX_BYTES, max_bytes) - len(note.encode())
    reason = plain_text(outcome.reason, max_bytes=room_bytes) + note
    if isinstance(outcome, Unknown):
        return Sealed(Unknown(reason, result), size_bytes + len(reason))
    error, error_bytes = _error(outcome.error, max_bytes=max_bytes)
    return Sealed(Failed(reason, error, result), size_bytes + error_bytes + len(reason))


def _failed(reason: str) -> Sealed:
    return Sealed(Failed(reason), len(reason))


def _not_an_outcome(returned: object) -> str:
    if inspect.iscoroutine(returned):
        returned.close()
        return "the handler returned a coroutine: make it `async def`, or await what it calls"
    if returned is None:
        return "the handler returned None: return Succeeded(), or another outcome"
    if isinstance(returned, dict):
        return "the handler returned a dict: return Succeeded(...) with it, or another outcome"
    if isinstance(returned, type) and issubclass(returned, OUTCOMES):
        name = type_name_of(returned)
        return f"the handler returned the class {name}: return {name}(...), with parentheses"
    return f"the handler returned {type_name(returned)}: return Succeeded(...) or another outcome"


def _result(result: object, *, max_bytes: int) -> tuple[dict[str, Any] | None, int]:
    """A copy of `result` in plain JSON, which nothing else can change, and its size."""
    if result is None:
        return None, 0
    try:
        content = _json(result)
        if len(content) > max_bytes:
            message = (
                f"has {len(content):,} bytes as JSON where {max_bytes:,} are allowed"
                " (RELAIS_OUTCOME_MAX_BYTES)"
            )
            raise _Unfit(message)
        copy = from_json(content)
    except (ValueError, RecursionError) as error:
        message = f"is not JSON: {plain_text(error, max_bytes=NAME_MAX_BYTES)}"
        raise _Unfit(message) from error
    if not isinstance(copy, dict):
        message = f"is not a JSON object but {type_name(result)}"
        raise _Unfit(message)
    if b"\\u0000" in content:
        copy = _mended(copy)
    # Depth is worth counting only if there are enough brackets.
    if content.count(b"[") + content.count(b"{") > DEPTH_MAX and _is_deeper(copy, DEPTH_MAX):
        message = f"is nested deeper than {DEPTH_MAX} levels"
        raise _Unfit(message)
    return copy, len(content)


def _json(value: object) -> bytes:
    try:
        return to_json(value, inf_nan_mode="null")
    except (PydanticSerializationError, UnicodeError):
        # A lone surrogate in some text; what is not JSON for another reason is refused again.
        return to_json(_mended(value), inf_nan_mode="null")


def _mended(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, dict):
        return {_mended(key): _mended(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mended(each) for each in value]
    return value


def _is_deeper(value: object, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return any(isinstance(node, (dict, list)) for node in level)


def _error(error: object, *, max_bytes: int) -> tuple[ErrorReport | None, int]:
    if error is None:
        return None, 0
    if not isinstance(error, ErrorReport):
        text = plain_text(error, max_bytes=min(REASON_MAX_BYTES, max_bytes))
        return ErrorReport(type_name(error), text), len(text)
    report = ErrorReport(
        type=plain_text(error.type, max_bytes=NAME_MAX_BYTES),
        message=plain_text(error.message, max_bytes=min(REASON_MAX_BYTES, max_bytes)),
        traceback=plain_text(error.traceback, max_bytes=min(TRACEBACK_MAX_BYTES, max_bytes)),
    )
    return report, len(report.type) + len(report.message) + len(report.traceback)


def bounded_delay_s(delay_s: object) -> float | None:
    """`delay_s` as a valid number of seconds; None if it is not a number."""
    if not isinstance(delay_s, (int, float)) or math.isnan(delay_s):
        return None
    return float(min(max(delay_s, 0), DELAY_MAX_S))


def plain_text(value: object, *, max_bytes: int) -> str:
    """`value` as text that Postgres accepts; truncated, with a mark, if it is longer."""
    if type(value) is not str:
        value = _as_text(value)
    if not value.isascii() or "\x00" in value:
        value = _whole(value)
    # A character has four bytes at most: most texts need not be measured.
    if 4 * len(value) <= max_bytes:
        return value
    content = value.encode()
    if len(content) <= max_bytes:
        return value
    mark = f" [cut: it had {len(content):,} bytes]"
    return content[: max(0, max_bytes - len(mark))].decode(errors="ignore") + mark


def _as_text(value: object) -> str:
    try:
        return "".join(["", str(value)])  # a plain str, whatever `__str__` returned
    except BaseException:  # noqa: BLE001 - a __str__ written by anyone
        return f"({type_name(value)}, whose text cannot be shown)"


def _whole(text: str) -> str:
    """`text` without lone surrogates and NULs, which Postgres cannot store."""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")


def type_name(value: object) -> str:
    """The name of the class of `value`, whatever that class says of itself."""
    return type_name_of(type(value))


def type_name_of(cls: type) -> str:
    """The name of `cls`, past its metaclass."""
    return _whole(type.__dict__["__name__"].__get__(cls))
