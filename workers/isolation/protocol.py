"""The protocol between a worker and its child processes: length-prefixed JSON.

Worker to child: `{"run": "function" | "kind", ...}`, later `{"answer": bool}`.
Child to worker: `{"ready": true}` once, then for each run `{"ask": "still_owned"}` any number of
times and one of `{"result": {...}}`, `{"outcome": {...}}` or `{"raised": {...}}`.

Imported by children that must start fast: the standard library and the outcomes only.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    import socket
    from asyncio import StreamReader
    from collections.abc import Callable

FRAME_MAX_BYTES = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")
_OUTCOMES: dict[str, type[Outcome]] = {
    "succeeded": Succeeded,
    "retry_later": RetryLater,
    "snooze": Snooze,
    "failed": Failed,
    "cancelled": Cancelled,
    "unknown": Unknown,
}
_NAMES = {outcome: name for name, outcome in _OUTCOMES.items()}


class FrameTooLarge(Exception):  # noqa: N818 - reads as the event it is
    """The other side announced, or this side wanted to send, more than FRAME_MAX_BYTES."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"{size_bytes:,} bytes where {FRAME_MAX_BYTES:,} are allowed")
        self.size_bytes = size_bytes


def pack(content: dict[str, Any], *, default: Callable[[Any], Any] | None = None) -> bytes:
    """`content` as one frame; raises TypeError or ValueError where it is not JSON."""
    body = json.dumps(content, default=default, separators=(",", ":")).encode()
    if len(body) > FRAME_MAX_BYTES:
        raise FrameTooLarge(len(body))
    return _LENGTH.pack(len(body)) + body


async def read(reader: StreamReader) -> dict[str, Any]:
    """The next frame; raises IncompleteReadError at the end, FrameTooLarge before reading it."""
    (size_bytes,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if size_bytes > FRAME_MAX_BYTES:
        raise FrameTooLarge(size_bytes)
    return _parsed(await reader.readexactly(size_bytes))


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """The next frame of a blocking socket; None when the other side is gone."""
    head = _exactly(channel, _LENGTH.size)
    if head is None:
        return None
    (size_bytes,) = _LENGTH.unpack(head)
    body = _exactly(channel, size_bytes)
    return None if body is None else _parsed(body)


def _exactly(channel: socket.socket, size_bytes: int) -> bytes | None:
    chunks: list[bytes] = []
    missing = size_bytes
    while missing:
        chunk = channel.recv(min(missing, 1 << 20))
        if not chunk:
            return None
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)


def _parsed(body: bytes) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(body)
    return content


def outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    """`outcome` with its name under `type`."""
    return {"type": _NAMES[type(outcome)], **asdict(outcome)}


def outcome_from_json(content: dict[str, Any]) -> Outcome:
    """The inverse of `outcome_as_json`."""
    fields = dict(content)
    made = _OUTCOMES[fields.pop("type")]
    if fields.get("error"):
        fields["error"] = ErrorReport(**fields["error"])
    return made(**fields)
