"""The MIME parts of a mail, all of them 7-bit, and the tree they form.

`=_` never stands in quoted-printable or base64: a boundary that begins with it can occur in 7bit
parts only.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.email import headers
from tasks.errors import PayloadError

if TYPE_CHECKING:
    from tasks.email.payload import Attachment

LINE_MAX = 998  # RFC 5322, without CRLF
BOUNDARY_START = "=_"
_ASCII = bytes(range(128))
_SEVEN_BIT = b"\t\n" + bytes(range(0x20, 0x7F))


@dataclass(frozen=True, slots=True)
class Part:
    """The header lines of a part, each ending in CRLF, and its body."""

    headers: str
    body: bytes


# What stands between the parts of one level ("mixed", "alternative", "related").
Boundary = Callable[[str, Sequence[Part]], str]


def tree(
    *,
    text: Part | None,
    html: Part | None,
    calendar: Part | None = None,
    attachments: Sequence[Attachment] = (),
    boundary: Boundary,
) -> Part:
    """mixed(alternative(text, related(html, inline...), calendar), attachments...).

    Without levels that would hold a single part.
    """
    shown = [] if text is None else [text]
    if html is not None:
        # Images belong to the HTML alone: readers of the plain text need not see them.
        inline = [_file(a, "inline") for a in attachments if a.content_id]
        shown.append(_multipart("related", [html, *inline], boundary))
    if calendar is not None:
        shown.append(calendar)  # last: of the alternatives, the one that says most
    root = _multipart("alternative", shown, boundary)
    files = [_file(a, "attachment") for a in attachments if not a.content_id]
    return _multipart("mixed", [root, *files], boundary)


def text(subtype: str, content: str, *, never: bytes = b"") -> Part:
    """`content` in the encoding that changes least of it; `never` does not occur in the body.

    `never` has to begin with `=_`.
    """
    if "\r" in content:
        content = content.replace("\r\n", "\n").replace("\r", "\n")
    data = content.encode()
    start = f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding:"
    if not data.translate(None, _SEVEN_BIT) and _has_short_lines(data):
        lines = data.replace(b"\n", b"\r\n")
        if not never or never not in lines:
            return Part(f"{start} 7bit\r\n", lines)
    foreign = 0 if content.isascii() else len(data.translate(None, _ASCII))
    if foreign * 4 > len(data):
        return Part(f"{start} base64\r\n", _base64(data.replace(b"\n", b"\r\n")))
    quoted = binascii.b2a_qp(data, istext=True)
    return Part(f"{start} quoted-printable\r\n", quoted.replace(b"\n", b"\r\n"))


def refuse_unfit(message: bytes) -> None:
    """The last guard against smuggling (VU#302671): only whole CRLFs, no NUL, no endless line."""
    lines = message.split(b"\r\n")
    ends = len(lines) - 1
    is_bare = message.count(b"\r") != ends or message.count(b"\n") != ends
    if is_bare or b"\x00" in message or max(map(len, lines)) > LINE_MAX:
        sentence = "The mail cannot be written as lines that every relay takes."
        raise PayloadError(sentence, remedy="Shorten its headers.")


def _has_short_lines(data: bytes) -> bool:
    return len(data) <= LINE_MAX or max(map(len, data.split(b"\n"))) <= LINE_MAX


def _multipart(subtype: str, members: Sequence[Part], boundary: Boundary) -> Part:
    if len(members) == 1:
        return members[0]
    between = boundary(subtype, members)
    body = bytearray()
    for part in members:
        body += f"--{between}\r\n{part.headers}\r\n".encode() + part.body + b"\r\n"
    body += f"--{between}--\r\n".encode()
    first = ';\r\n type="text/html"' if subtype == "related" else ""
    return Part(
        f'Content-Type: multipart/{subtype}{first};\r\n boundary="{between}"\r\n', bytes(body)
    )


def _file(attachment: Attachment, disposition: str) -> Part:
    lines = (
        f"Content-Type: {attachment.content_type}\r\n"
        "Content-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: {disposition}"
        f"{headers.parameter('filename', attachment.filename)}\r\n"
    )
    if attachment.content_id:
        lines += f"Content-ID: <{attachment.content_id}>\r\n"
    return Part(lines, _base64(attachment.content))


def _base64(data: bytes) -> bytes:
    encoded = binascii.b2a_base64(data, newline=False)
    return b"\r\n".join(encoded[i : i + 76] for i in range(0, len(encoded), 76))
