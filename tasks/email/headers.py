"""Header fields: which ones callers may set, and how any text becomes safe lines.

Nothing that a caller writes can end a line: control characters are refused, and anything other than
plain ASCII becomes encoded words (RFC 2047).
"""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from tasks.email.addresses import refuse_controls
from tasks.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tasks.email.addresses import Mailbox

COUNT_MAX = 50
VALUE_MAX = 4_000
LINE_WISH = 76
WORD_MAX = 900  # keeps our lines well below the 998 bytes of RFC 5322
ENCODED_BYTES = 45  # 60 base64 characters plus delimiters make 72

_UNSTRUCTURED = {
    "comments", "content-language", "feedback-id", "importance", "keywords", "organization",
    "precedence", "priority", "sensitivity", "thread-index", "thread-topic",
}  # fmt: skip
_STRUCTURED = {
    "accept-language", "auto-submitted", "disposition-notification-to", "in-reply-to",
    "references",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,75}")
_WORDS = re.compile(r"(\s*)(\S+)")
_UNSUBSCRIBE = re.compile(rf"(?=.{{1,{WORD_MAX}}}$)(?:https://|mailto:)[!-;=?-~]+")
_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")


def refusal(name: str, value: str) -> str | None:
    """Why callers may not set this header; None: they may."""
    low = name.lower()
    is_free = low.startswith("x-") or low in _UNSTRUCTURED
    if not _NAME.fullmatch(name) or not (is_free or low in _STRUCTURED or low.startswith("list-")):
        return (
            f"The header {name[:80]!r} cannot be set; allowed are X-*, List-* and "
            f"{', '.join(sorted(_UNSTRUCTURED | _STRUCTURED))}."
        )
    try:
        refuse_controls(value, f"The header {name}")
    except ValueError as error:
        return str(error)
    if len(value) > VALUE_MAX:
        return f"The header {name} is longer than {VALUE_MAX} characters."
    if not is_free and not value.isascii():
        return f"The header {name} must be ASCII."
    if not is_free and any(len(word) > WORD_MAX for word in value.split()):
        return f"The header {name} has a word of more than {WORD_MAX} characters."
    return None


def unstructured(name: str, value: str) -> str:
    """`name: value` as folded lines, each ending in CRLF."""
    if not _is_plain(value):
        return _with_encoded_words(f"{name}:", value)
    if value and len(name) + len(value) + 2 <= LINE_WISH:
        return f"{name}: {value}\r\n"
    lines = [f"{name}:"]
    for space, word in _WORDS.findall(value):
        lead = space or " "
        if len(lines[-1]) + len(lead) + len(word) > LINE_WISH and len(lines[-1]) > len(name) + 1:
            lines.append(lead + word)
        else:
            lines[-1] += lead + word
    return "\r\n".join(lines) + "\r\n"


def structured(name: str, value: str) -> str:
    """The same for a value that must not be encoded: ASCII, words of at most WORD_MAX."""
    lines = [f"{name}:"]
    for word in value.split():
        if len(lines[-1]) + 1 + len(word) > LINE_WISH and len(lines[-1]) > len(name) + 1:
            lines.append("")
        lines[-1] += f" {word}"
    return "\r\n".join(lines) + "\r\n"


def custom(name: str, value: str) -> str:
    """A header that `refusal` let pass."""
    low = name.lower()
    if low in _STRUCTURED or low.startswith("list-"):
        return structured(name, value)
    return unstructured(name, value)


def date(value: datetime) -> str:
    """The Date header, to the second, in UTC."""
    return f"Date: {format_datetime(value.astimezone(UTC).replace(microsecond=0))}\r\n"


def unsubscribe(uris: Sequence[str]) -> str:
    """List-Unsubscribe, and the word that one POST is enough (RFC 8058) where there is https."""
    for uri in uris:
        if not _UNSUBSCRIBE.fullmatch(uri):
            sentence = f"{uri[:80]!r} is no URI for List-Unsubscribe."
            remedy = (
                f"Give https: or mailto:, ASCII, at most {WORD_MAX} characters, no <, > or blank."
            )
            raise PayloadError(sentence, remedy=remedy)
    lines = structured("List-Unsubscribe", ", ".join(f"<{uri}>" for uri in uris))
    if any(uri.startswith("https:") for uri in uris):
        lines += "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    return lines


def addresses(name: str, boxes: Sequence[Mailbox], *, utf8: bool) -> str:
    """An address header, one mailbox per line.

    Without `utf8` a non-ASCII local part cannot be written: such a mailbox is shown as an
    empty group with the address as its name (RFC 6857).
    """
    return f"{name}: " + ",\r\n ".join(_mailbox(box, utf8=utf8) for box in boxes) + "\r\n"


def parameter(name: str, value: str) -> str:
    """A MIME parameter on lines of its own, starting with `;` (RFC 2231 if necessary)."""
    if value.isascii() and len(value) <= LINE_WISH - len(name) and "\x7f" not in value:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f';\r\n {name}="{escaped}"'
    encoded = quote(value, safe="!#$&+-.^_`|~")
    parts = _chunks(encoded, 60)
    if len(parts) == 1:
        return f";\r\n {name}*=utf-8''{encoded}"
    parts[0] = f"utf-8''{parts[0]}"
    return "".join(f";\r\n {name}*{index}*={part}" for index, part in enumerate(parts))


def _mailbox(box: Mailbox, *, utf8: bool) -> str:
    if not utf8 and not box.address.isascii():
        return f"{_encoded_words(f'{box.name} {box.address}'.strip())}:;"
    if not box.name:
        return box.address
    if not _is_plain(box.name):
        return f"{_encoded_words(box.name)}\r\n <{box.address}>"
    if _ATOM.fullmatch(box.name):
        return f"{box.name} <{box.address}>"
    escaped = box.name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}" <{box.address}>'


def _is_plain(value: str) -> bool:
    """Whether a reader gets exactly `value` back if it is written as it is."""
    return (
        value.isascii()
        and value.isprintable()
        and value == value.strip()
        and "=?" not in value
        and all(len(word) <= WORD_MAX for word in value.split())
    )


def _with_encoded_words(start: str, value: str) -> str:
    return f"{start} {_encoded_words(value)}\r\n" if value else f"{start}\r\n"


def _encoded_words(value: str) -> str:
    return "\r\n ".join(f"=?utf-8?b?{b64encode(part).decode()}?=" for part in _utf8_parts(value))


def _utf8_parts(value: str) -> Iterable[bytes]:
    """`value` in pieces that end between characters, each short enough for an encoded word."""
    whole = value.encode()
    if len(whole) <= ENCODED_BYTES:
        yield whole
        return
    part = b""
    for character in value:
        encoded = character.encode()
        if len(part) + len(encoded) > ENCODED_BYTES:
            yield part
            part = b""
        part += encoded
    yield part


def _chunks(encoded: str, size: int) -> list[str]:
    """`encoded` in pieces that do not split a %XX."""
    parts: list[str] = []
    while encoded:
        end = size
        if len(encoded) > size and "%" in encoded[size - 2 : size]:
            end = encoded.index("%", size - 2)
        parts.append(encoded[:end])
        encoded = encoded[end:]
    return parts
