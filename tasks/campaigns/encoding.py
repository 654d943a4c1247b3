"""Text out of the bytes of an uploaded file, a piece at a time, whatever wrote it.

Spreadsheets save UTF-8 with and without a mark, UTF-16, and the code page of western Windows. A
mark at the beginning decides; without one, NULs tell UTF-16, and the first bytes that are no UTF-8
tell the code page, provided that nothing before them was UTF-8 beyond ASCII.
"""

from __future__ import annotations

import codecs

HEAD_BYTES = 4_096  # what is looked at before anything is decoded
LEGACY = "cp1252"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class EncodingError(ValueError):
    """The bytes are in no encoding that is known here, or not in the one that was named."""


class TextDecoder:
    """`feed` bytes, get text; `close` at the end. Raises EncodingError."""

    def __init__(self, encoding: str | None = None) -> None:
        """`encoding`: as the caller names it; None: found out. LookupError where there is none."""
        self.encoding = codecs.lookup(encoding).name if encoding else ""
        self._is_named = bool(encoding)
        self._decoder = codecs.getincrementaldecoder(self.encoding)() if encoding else None
        self._head = bytearray()
        self._is_ascii = True

    def feed(self, data: bytes) -> str:
        """What can be decoded by now."""
        if self._decoder is None:
            self._head += data
            if len(self._head) < HEAD_BYTES:
                return ""
            data = self._begin()
        return self._decoded(data, is_last=False)

    def close(self) -> str:
        """The rest."""
        return self._decoded(self._begin() if self._decoder is None else b"", is_last=True)

    def _begin(self) -> bytes:
        head = bytes(self._head)
        self._head.clear()
        for mark, encoding in _MARKS:
            if head.startswith(mark):
                self._use(encoding)
                self._is_named = True
                return head[len(mark) :]
        self._use(_guess(head))
        return head

    def _use(self, encoding: str) -> None:
        self.encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()

    def _decoded(self, data: bytes, *, is_last: bool) -> str:
        assert self._decoder is not None  # noqa: S101 - made by the constructor or by `_begin`
        data = self._decoder.getstate()[0] + data
        self._decoder.reset()
        try:
            text = self._decoder.decode(data, is_last)
        except UnicodeDecodeError as error:
            if not self._may_be_legacy(data[: error.start]):
                sentence = f"Its bytes are not {self.encoding}, which it begins as."
                raise EncodingError(sentence) from error
            text = self._as_legacy(data)
        self._is_ascii = self._is_ascii and text.isascii()
        return text

    def _may_be_legacy(self, before: bytes) -> bool:
        is_guess = not self._is_named and self.encoding == "utf-8"
        return is_guess and self._is_ascii and before.isascii()

    def _as_legacy(self, data: bytes) -> str:
        try:
            text = data.decode(LEGACY)
        except UnicodeDecodeError as error:
            sentence = "Its bytes are neither UTF-8 nor Windows-1252."
            raise EncodingError(sentence) from error
        self._use(LEGACY)
        return text


def _guess(head: bytes) -> str:
    """UTF-16 without a mark has a NUL beside every ASCII character."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    half = max(1, len(head) // 2)
    if odd > half * 0.4 and even < half * 0.05:
        return "utf-16-le"
    if even > half * 0.4 and odd < half * 0.05:
        return "utf-16-be"
    return "utf-8"
