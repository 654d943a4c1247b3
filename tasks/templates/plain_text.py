"""Plain text from HTML: what a reader sees whose mail program shows no HTML.

Runs in the isolated process, like the rest of what reads strangers' markup.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

_UNSEEN = frozenset([
    "head", "style", "script", "title", "noscript", "template", "svg",
])  # fmt: skip
_BLOCKS = frozenset([
    "address", "article", "aside", "blockquote", "dd", "div", "dl", "dt", "fieldset", "figure",
    "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav",
    "ol", "p", "pre", "section", "table", "tbody", "tfoot", "thead", "tr", "ul",
])  # fmt: skip
_APART = frozenset([
    "blockquote", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "table", "ul",
])  # fmt: skip
_VOID = frozenset([
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track",
    "wbr",
])  # fmt: skip
_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\r\n\f]+")
_BLANK_LINES = re.compile(r"\n{3,}")
_AT_END = re.compile(r"[ \t]+$", re.MULTILINE)


def from_html(html: str) -> str:
    """The text of `html`: blocks on lines of their own, lists with dashes, links with their URL."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.text()


def tidy(text: str) -> str:
    """`text` without spaces at ends of lines, and with one empty line at most between others."""
    return _BLANK_LINES.sub("\n\n", _AT_END.sub("", text)).strip()


class _Reader(HTMLParser):
    """Collects the text as the tags go by; wrong nesting is read as well as it can be."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._unseen: list[str] = []  # the open elements, from the first that is not shown
        self._links: list[tuple[str, int]] = []  # where open ones lead, and where their text began

    def text(self) -> str:
        return tidy("".join(self._parts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if self._unseen or tag in _UNSEEN or _HIDDEN.search(named.get("style", "")):
            if tag not in _VOID:
                self._unseen.append(tag)
            return
        if tag == "br":
            self._parts.append("\n")
        elif tag == "hr":
            self._break(apart=True)
            self._parts.append("-----\n\n")
        elif tag == "img":
            self._say(named.get("alt", ""))
        elif tag == "a":
            self._links.append((named.get("href", ""), len(self._parts)))
        elif tag in {"td", "th"}:
            self._say(" ")
        elif tag in _BLOCKS:
            self._break(apart=tag in _APART)
            if tag == "li":
                self._parts.append("- ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._unseen:
            if tag in self._unseen:
                while self._unseen.pop() != tag:
                    pass
        elif tag == "a" and self._links:
            url, begin = self._links.pop()
            said = "".join(self._parts[begin:]).strip()
            if url and not url.startswith("#") and url.removeprefix("mailto:") != said:
                self._parts.append(f" ({url})" if said else url)
        elif tag in _BLOCKS:
            self._break(apart=tag in _APART)

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._say(_SPACE.sub(" ", data))

    def _say(self, words: str) -> None:
        if words.startswith(" ") and (not self._parts or self._parts[-1].endswith((" ", "\n"))):
            words = words[1:]
        if words:
            self._parts.append(words)

    def _break(self, *, apart: bool) -> None:
        """Begin a new line, behind an empty one where blocks stand `apart`."""
        if not self._parts:
            return
        if self._parts[-1] == "- ":  # a block that begins an item stays on its line
            return
        wanted = 2 if apart else 1
        ending = "".join(self._parts[-2:])
        there = len(ending) - len(ending.rstrip("\n"))
        if there < wanted:
            self._parts.append("\n" * (wanted - there))
