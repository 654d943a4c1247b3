"""Bodies: limited before they are read, measured before they are parsed, parsed once.

What JSON allows and Postgres or a mail header does not is refused here: NUL characters, lone
surrogates, numbers beyond a double, `NaN` and `Infinity`.
"""

from __future__ import annotations

import asyncio
import re
import time
from math import isinf
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from gateway import json_array
from gateway.errors import Code, Problem, TooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import Message

    from gateway.body_memory import Room

CHUNK_TIMEOUT_S = 30.0
PACE_BYTES_PER_S = 16_384  # on average, once that time is over
PARSER_MAX_DEPTH = 200  # of pydantic-core, whatever the settings say

_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_ROUND = bytes.maketrans(b"[]{}", b"()()")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# A match may be a NUL or too large a number; only then is the parsed body walked. Because the
# pattern starts with a digit, and with nothing else, the search can skip all text.
_NUL = b"\\u0000"
_LARGE = re.compile(rb"[0-9.](?:[eE]\+?[0-9]{3}|[0-9]{199})")
_DOUBLE_MAX = 2**1024


async def read(request: Request, *, max_bytes: int, room: Room) -> bytes:
    """The whole body; 413 as soon as it is known to be larger than `max_bytes`.

    What does not arrive at once takes `room` as it arrives, and has to keep a certain pace.
    """
    declared = declared_length(request)
    if declared is not None and declared > max_bytes:
        raise _too_large(max_bytes)
    message = await _receive(request)
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        parts = [body]
        size = len(body)
        await room.take(size)
        started = time.monotonic()
        while message.get("more_body", False):
            message = await _receive(request)
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > max_bytes:
                raise _too_large(max_bytes)
            if (time.monotonic() - started - CHUNK_TIMEOUT_S) * PACE_BYTES_PER_S > size:
                raise _too_slow()
            await room.take(len(part))
            parts.append(part)
        body = b"".join(parts)
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


async def chunks(request: Request, *, max_bytes: int) -> AsyncIterator[bytes]:
    """The body as it arrives; 413 as soon as it is larger than `max_bytes`."""
    declared = declared_length(request)
    if declared is not None and declared > max_bytes:
        raise _too_large(max_bytes)
    size = 0
    more = True
    while more:
        message = await _receive(request)
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        yield part
        more = message.get("more_body", False)


def parse(body: bytes, *, max_depth: int) -> Any:  # noqa: ANN401 - any JSON
    """`body` as Python values."""
    check_depth(body, max_depth=max_depth)
    return _parsed(body)


async def cut_array(body: bytes, *, items_max: int, max_depth: int) -> list[slice]:
    """Where the items of the JSON array `body` are, each of them JSON that `parse` accepts.

    Where there are more than `items_max`, they are not looked at.
    """
    if not json_array.is_array(body):
        message = "The body of a batch must be an array of jobs."
        raise Problem(Code.VALUE_INVALID, message, remedy="Wrap the job in [ ].")
    turn = json_array.Turn()
    found = await json_array.cut(body, items_max=items_max, turn=turn)
    if found is None:
        message = "The body is not JSON: the array is not closed, or something follows it."
        raise Problem(Code.MALFORMED_JSON, message, remedy="Send valid JSON in UTF-8.")
    for place in found if len(found) <= items_max else ():
        parse(body[place], max_depth=max_depth)
        await turn.over()
    return found


def check_depth(body: bytes, *, max_depth: int) -> None:
    """Refuse a body nested deeper than `max_depth`, without parsing it."""
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    brackets = _STRINGS.sub(b"", body).translate(_ROUND, _NOT_BRACKETS)
    for _ in range(max_depth):
        shallower = brackets.replace(b"()", b"")
        if len(shallower) == len(brackets):
            break
        brackets = shallower
    # Each round removed one level. If more brackets are still open, it is too deep, or not JSON at
    # all.
    if b"()" in brackets or brackets.count(b"(") > max_depth:
        raise _too_deep(max_depth)


def declared_length(request: Request) -> int | None:
    """The Content-Length, if there is one."""
    value = request.headers.get("content-length")
    return int(value) if value and value.isascii() and value.isdigit() and len(value) < 20 else None


def media_type(request: Request) -> str:
    """The media type of the body, lower case and without parameters."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise Problem(
            Code.MEDIA_TYPE_UNSUPPORTED,
            "Compressed bodies are not accepted.",
            remedy="Send the body without Content-Encoding.",
        )
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_json(request: Request) -> None:
    """415 if the body is not declared to be JSON."""
    found = media_type(request)
    if found != "application/json" and not (
        found.startswith("application/") and found.endswith("+json")
    ):
        raise Problem(
            Code.MEDIA_TYPE_UNSUPPORTED,
            f"The Content-Type is {found or 'missing'}, not application/json."[:200],
            remedy="Send the header Content-Type: application/json.",
        )


async def _receive(request: Request) -> Message:
    try:
        async with asyncio.timeout(CHUNK_TIMEOUT_S):
            message = await request.receive()
    except TimeoutError:
        raise _too_slow() from None
    if message["type"] == "http.disconnect":
        raise Problem(Code.MALFORMED_JSON, "The body ended early.", remedy="Send it again.")
    return message


def _parsed(body: bytes) -> Any:  # noqa: ANN401 - any JSON
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        if "recursion limit" in str(error):
            raise _too_deep(PARSER_MAX_DEPTH) from error
        message = f"The body is not JSON: {error}."
        raise Problem(Code.MALFORMED_JSON, message, remedy="Send valid JSON in UTF-8.") from error
    if _NUL in body or _LARGE.search(body):
        _walk(value, path=())
    return value


def _too_deep(max_depth: int) -> Problem:
    message = f"The body is nested more than {max_depth} levels deep."
    return Problem(Code.BODY_TOO_DEEP, message, remedy="Flatten it.")


def _too_slow() -> Problem:
    return Problem(
        Code.BODY_TOO_SLOW,
        f"The body stopped for {CHUNK_TIMEOUT_S:g} s, or arrived at less than {PACE_BYTES_PER_S}"
        " bytes a second for longer than that.",
        remedy="Send it again.",
        headers={"Connection": "close"},
    )


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        Code.BODY_TOO_LARGE,
        f"The body is larger than {max_bytes} bytes.",
        remedy="Send less at once; large sets of jobs go to /api/v1/jobs/batch as NDJSON.",
        headers={"Connection": "close"},
    )


def _walk(value: Any, *, path: tuple[str, ...]) -> None:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        if "\0" in value:
            raise _refused(path, "A NUL character cannot be stored.")
    elif isinstance(value, dict):
        for key, item in value.items():
            if "\0" in key:
                raise _refused(path, "A NUL character cannot be stored.")
            _walk(item, path=(*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _walk(item, path=(*path, str(index)))
    elif (isinstance(value, float) and isinf(value)) or (
        isinstance(value, int) and abs(value) >= _DOUBLE_MAX
    ):
        raise _refused(path, "The number is too large for a double.")


def _refused(path: tuple[str, ...], detail: str) -> Problem:
    field = ".".join(path)[:200] or "body"
    return Problem(Code.VALUE_INVALID, f"{field}: {detail}", field=field, remedy="Remove it.")
