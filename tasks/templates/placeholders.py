"""Jinja's parts of a template, hidden while tools that know nothing of Jinja read the rest.

Each is replaced by a word that stands nowhere else, which comes through as a text, a part of an
attribute or of CSS, and is put back afterwards.
"""

from __future__ import annotations

import re

from tasks.errors import RenderError
from tasks.templates import sandbox

# What begins something of Jinja's and was not Jinja's before: CSS has `{#`, entities may make `{{`.
_FOREIGN = re.compile(r"\{(?=[{%#])")
_LINE = re.compile(r"^[ \t]*(.+?)[ \t]*\n", re.MULTILINE)
# Where a parser of HTML reads: text, a tag, a comment, or text that has no tags.
_MARKUP = re.compile(
    r"<!--.*?(?:-->|\Z)|<(style|script|title|textarea)\b.*?(?:</\1\s*>|\Z)"
    r"""|<[A-Za-z/!?](?:[^>"']|"[^"]*"|'[^']*')*(?:>|\Z)""",
    re.DOTALL | re.IGNORECASE,
)


class Placeholders:
    """The Jinja parts of one source, and the source with words in their place."""

    def __init__(self, source: str, *, field: str) -> None:
        """Raises RenderError, which names `field`, where Jinja cannot read the source."""
        self._field = field
        cut = sandbox.pieces(source, field=field)
        self._parts = [text for is_jinja, text in cut if is_jinja]
        self._mark = _unused(source)
        numbers = iter(range(len(self._parts)))
        self.hidden = "".join(
            self._word(next(numbers)) if is_jinja else text for is_jinja, text in cut
        )
        self._found = re.compile(rf"<!--{self._mark}(\d+)z-->|{self._mark}(\d+)z")

    def as_comments(self) -> str:
        """The source with the words that stand between tags as comments.

        A parser of HTML leaves comments where they are; other text it moves out of tables.
        """
        parts: list[str] = []
        end = 0
        for markup in _MARKUP.finditer(self.hidden):
            parts += [self._commented(self.hidden[end : markup.start()]), markup[0]]
            end = markup.end()
        return "".join([*parts, self._commented(self.hidden[end:])])

    def restored(self, made: str, *, must_keep_all: bool = True) -> str:
        """`made` with Jinja's parts put back, and with nothing else that Jinja would take for its.

        Raises RenderError for the first part that got lost, unless it may.
        """
        kept: set[int] = set()

        def restore(found: re.Match[str]) -> str:
            number = int(found[1] or found[2])
            kept.add(number)
            return self._parts[number]

        restored = self._found.sub(restore, _FOREIGN.sub("{ ", made))
        if must_keep_all:
            self._refuse_lost(kept)
        return restored

    def joined_statements(self, text: str) -> str:
        """`text` without the line ends of lines that hold nothing but statements and comments."""
        alone = {
            self._word(number)
            for number, part in enumerate(self._parts)
            if part.startswith(("{%", "{#"))
        }

        def join(line: re.Match[str]) -> str:
            return line[1] if set(line[1].split()) <= alone else line[0]

        return _LINE.sub(join, text)

    def _refuse_lost(self, kept: set[int]) -> None:
        for number, part in enumerate(self._parts):
            if number not in kept and not part.startswith("{#"):
                sentence = f"Template {self._field}: {part[:100]!r} stands where nothing can vary."
                raise RenderError(
                    sentence, remedy="Move it into a text, a link, or an <mj-raw> around elements."
                )

    def _word(self, number: int) -> str:
        return f"{self._mark}{number}z"

    def _commented(self, text: str) -> str:
        return self._found.sub(r"<!--\g<0>-->", text)


def _unused(source: str) -> str:
    number = 0
    while (mark := f"zq{number}q") in source:
        number += 1
    return mark
