"""Newline-delimited JSON: one value a line, cut out of the stream as it arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MEDIA_TYPES = {"application/x-ndjson", "application/ndjson", "application/jsonl"}


class LongLine(Exception):  # noqa: N818 - not an error of its own: the batch decides
    """A line is longer than it may be; it cannot be skipped without reading on."""


async def lines(chunks: AsyncIterator[bytes], *, line_max_bytes: int) -> AsyncIterator[bytes]:
    """The lines of `chunks` without their ends, empty ones included; the last may have no end."""
    rest = b""
    async for chunk in chunks:
        head, *tail = chunk.split(b"\n")
        rest += head
        if len(rest) > line_max_bytes:
            raise LongLine
        for piece in tail:
            yield rest.removesuffix(b"\r")
            rest = piece
            if len(rest) > line_max_bytes:
                raise LongLine
    if rest:
        yield rest.removesuffix(b"\r")
