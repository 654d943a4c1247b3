"""Removes from free text what must not leave the process in a log line or a span.

Fields are chosen by hand and need none of this; messages of libraries and of exceptions are
not: they quote addresses, connection URLs and bound parameters. Every step is linear in the
length of the text, which may have been written by an attacker.
"""

from __future__ import annotations

import re

HEAD_MAX, TAIL_MAX = (
    4_000,
    16_000,
)  # characters kept; the end of a traceback is the most useful part
_PIECE = re.compile(r"[^<>\"(),;:=\[\]{}]+")
_PARAMETERS = re.compile(r"\[parameters: .*|^DETAIL: .*", re.MULTILINE)
_SECRET = re.compile(r"\b(?:whsec|rls)_[A-Za-z0-9+/=_-]+")


def redacted(text: str) -> str:
    """`text` without addresses, logins, query strings, bound parameters and keys."""
    if len(text) > HEAD_MAX + TAIL_MAX:
        text = f"{text[:HEAD_MAX]} [...] {text[-TAIL_MAX:]}"
    text = _PARAMETERS.sub("[left out]", text)
    if "@" in text or "?" in text:
        text = " ".join(map(_word, text.split(" ")))
    return _SECRET.sub("[secret]", text)


def _word(word: str) -> str:
    if "\n" in word:
        return "\n".join(map(_word, word.split("\n")))
    if "@" in word:
        if "://" in word:  # a login, or an address somewhere in a URL
            return "[address]"
        word = _PIECE.sub(lambda piece: "[address]" if "@" in piece[0] else piece[0], word)
    head, mark, query = word.partition("?")
    return f"{head}?[query]" if head and mark and "=" in query else word
