"""Newline-delimited JSON: one value a line, cut out of the stream as it arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.body_memory import Room

MEDIA_TYPES = {"application/x-ndjson", "application/ndjson", "application/jsonl"}


class LongLine(Exception):  # noqa: N818 - not an error by itself: the batch decides
    """A line is longer than it may be; it cannot be skipped without reading on."""


async def lines(
    chunks: AsyncIterator[bytes], *, line_max_bytes: int, room: Room
) -> AsyncIterator[bytes]:
    """The lines of `chunks` without their ends, empty ones included; the last may have no end.

    A line that has begun and not ended takes `room`, until the next one begins.
    """
    rest = bytearray()  # grows in place: pieces of a long line are not copied repeatedly
    async for chunk in chunks:
        head, *tail = chunk.split(b"\n")
        rest += head
        for piece in tail:
            if len(rest) > line_max_bytes:
                raise LongLine
            yield bytes(rest).removesuffix(b"\r")
            rest = bytearray(piece)
        if len(rest) > line_max_bytes:
            raise LongLine
        await room.keep(len(rest))
    if rest:
        yield bytes(rest).removesuffix(b"\r")
