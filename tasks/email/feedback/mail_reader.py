"""A received mail as a tree of parts, read in bounded time whatever it contains.

The standard library's parser recurses with the nesting of its input, and its header classes are
quadratic in places; a mailbox for bounces is open to everyone. What is beyond the limits here is
cut off: the report of a bounce stands before the mail that it returns.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass

SIZE_MAX = 1_048_576  # bytes of a mail that are looked at
TEXT_MAX = 65_536  # bytes of a part that are decoded
DEPTH_MAX = 8
PARTS_MAX = 64
HEADERS_MAX = 500
HEADER_MAX = 262_144  # bytes of all of them
VALUE_MAX = 4_000

_PARAMETER = re.compile(r';\s*([A-Za-z][A-Za-z0-9*-]{0,40})\s*=\s*(?:"([^"]*)"|([^\s;"]+))')
_NAME = re.compile(rb"([!-9;-~]{1,100})[ \t]*:")
_BLANK_LINE = re.compile(rb"\n\r?\n")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]+")

# Python knows codecs that are no charsets, and some (punycode) that take the square of the length.
_CHARSETS = re.compile(
    r"utf-?8|us-ascii|ascii|iso-8859-\d{1,2}|iso-2022-(?:jp|kr)|windows-125\d|koi8-[ru]"
    r"|gb2312|gbk|gb18030|big5|shift[-_]jis|euc-(?:jp|kr)"
)


@dataclass(frozen=True, slots=True)
class Headers:
    """The fields of one header, in their order; names compare without regard to case."""

    fields: tuple[tuple[str, str], ...]  # names in lower case, values unfolded

    def get(self, name: str) -> str:
        """The first value of `name`; empty where there is none."""
        return next((value for known, value in self.fields if known == name), "")

    def all(self, *names: str) -> list[str]:
        """Every value of these names, in the order of the names."""
        return [value for name in names for known, value in self.fields if known == name]


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its header, its body still encoded, and its children where it is a multipart."""

    headers: Headers
    content_type: str
    parameters: dict[str, str]
    body: bytes
    parts: tuple[Part, ...] = ()

    def walk(self) -> Iterator[Part]:
        """This part and all below it, in the order of the mail."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def decoded(self) -> bytes:
        """The body without its transfer encoding; at most TEXT_MAX bytes of it."""
        encoding = self.headers.get("content-transfer-encoding").strip().lower()
        body = self.body[: TEXT_MAX * 2]
        if encoding == "base64":
            return _base64(body)[:TEXT_MAX]
        if encoding == "quoted-printable":
            return binascii.a2b_qp(body)[:TEXT_MAX]
        return body[:TEXT_MAX]

    def text(self) -> str:
        """The body as text, lines ended by a line feed, without other control characters."""
        return decode(self.decoded(), self.parameters.get("charset", ""))


def parse(raw: bytes) -> Part:
    """`raw` as a tree; never raises."""
    return _part(raw[:SIZE_MAX], depth=0, budget=[PARTS_MAX])


def read_headers(raw: bytes) -> tuple[Headers, bytes]:
    """The header at the start of `raw`, and what follows it."""
    fields: list[tuple[str, list[str]]] = []
    position = length = 0  # length: of the value that is being read
    while position < len(raw):
        if len(fields) >= HEADERS_MAX or position > HEADER_MAX:
            blank = _BLANK_LINE.search(raw, position - 1)
            position = blank.end() if blank else len(raw)
            break
        end = raw.find(b"\n", position)
        end = len(raw) if end < 0 else end + 1
        line = raw[position:end].rstrip(b"\r\n")
        if not line:
            position = end
            break
        if line[:1] in b" \t":
            if fields and length < VALUE_MAX:
                fields[-1][1].append(_line(line.strip()))
                length += len(line) + 1
        elif match := _NAME.match(line):
            fields.append((match[1].decode().lower(), [_line(line[match.end() :].strip())]))
            length = len(line)
        elif line.startswith((b"From ", b">From ")):
            pass  # the separator of an mbox, which some programs leave there
        else:
            break  # no field: the body began without a blank line
        position = end
    headers = Headers(tuple((name, " ".join(words)[:VALUE_MAX]) for name, words in fields))
    return headers, raw[position:]


def decode(raw: bytes, charset: str = "") -> str:
    """`raw` as text, in its charset if it is that, otherwise with replacement characters."""
    known = _CHARSETS.fullmatch(charset.strip().lower())
    try:
        text = raw.decode(known[0] if known else "utf-8", "replace")
    except LookupError:
        text = raw.decode("utf-8", "replace")
    return _CONTROLS.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))


def _part(raw: bytes, *, depth: int, budget: list[int]) -> Part:
    headers, body = read_headers(raw)
    declared = headers.get("content-type") or "text/plain"
    content_type = declared.partition(";")[0].strip().lower()
    found = _PARAMETER.findall(declared)
    parameters = {name.lower(): quoted or bare for name, quoted, bare in reversed(found)}
    parts: tuple[Part, ...] = ()
    boundary = parameters.get("boundary", "")
    if content_type.startswith("multipart/") and boundary and depth < DEPTH_MAX:
        delimiter = b"--" + boundary.encode("utf-8", "replace")
        parts = tuple(_children(body, delimiter, depth=depth, budget=budget))
    return Part(headers, content_type, parameters, body, parts)


def _children(body: bytes, delimiter: bytes, *, depth: int, budget: list[int]) -> Iterator[Part]:
    """What stands between the delimiters; a missing last one is forgiven."""
    start: int | None = None
    position = 0
    while budget[0] > 0:
        at = body.find(delimiter, position)
        if at < 0:
            break
        end = body.find(b"\n", at)
        end = len(body) if end < 0 else end + 1
        rest = body[at + len(delimiter) : end].strip()
        position = end
        if (at and body[at - 1 : at] != b"\n") or rest not in {b"", b"--"}:
            continue  # the same bytes within a line, or the start of a longer boundary
        if start is not None:
            budget[0] -= 1
            yield _part(body[start:at], depth=depth + 1, budget=budget)
        if rest:
            return
        start = end
    if start is not None and budget[0] > 0:
        budget[0] -= 1
        yield _part(body[start:], depth=depth + 1, budget=budget)


def _line(line: bytes) -> str:
    return _CONTROLS.sub(" ", line[:VALUE_MAX].decode("utf-8", "replace"))


def _base64(body: bytes) -> bytes:
    clean = re.sub(rb"[^A-Za-z0-9+/]+", b"", body)
    try:
        return binascii.a2b_base64(clean[: len(clean) // 4 * 4])
    except binascii.Error:
        return body
