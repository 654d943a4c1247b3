"""What a relay says it can do, in its reply to EHLO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.email.replies import Reply


@dataclass(frozen=True, slots=True)
class Offers:
    """The extensions that the relay announced."""

    pipelining: bool = False
    starttls: bool = False
    smtputf8: bool = False
    eightbitmime: bool = False
    size_max_bytes: int = 0  # 0: it did not say
    auth: frozenset[str] = frozenset()


def offers(reply: Reply) -> Offers:
    """The extensions in a reply to EHLO."""
    words: dict[str, list[str]] = {}
    for line in reply.lines[1:]:
        keyword, *arguments = line.upper().replace("AUTH=", "AUTH ").split() or [""]
        words.setdefault(keyword, []).extend(arguments)
    size = (words.get("SIZE") or [""])[0]
    return Offers(
        pipelining="PIPELINING" in words,
        starttls="STARTTLS" in words,
        smtputf8="SMTPUTF8" in words,
        eightbitmime="8BITMIME" in words,
        size_max_bytes=int(size) if size.isascii() and size.isdigit() else 0,
        auth=frozenset(words.get("AUTH", ())),
    )
