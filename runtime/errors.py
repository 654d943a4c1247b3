"""The root of every error that Relais raises on purpose.

RelaisError
├── SettingsError            a setting is missing or wrong
├── gateway.errors.*         answered as problem+json
├── ledger.errors.*          the database refused or is not fit
├── tasks.errors.*           a handler's input or surroundings are wrong
└── ops.errors.*             the command line and the local stack
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# What pydantic puts in front of the text of our own checks.
_PREFIXES = ("Value error, ", "Assertion failed, ")


class RelaisError(Exception):
    """An error whose text tells a person what is wrong and what to do."""

    def __init__(self, sentence: str, *, remedy: str = "") -> None:
        """`sentence` says what is wrong, `remedy` what to do about it."""
        super().__init__(f"{sentence} {remedy}".strip())
        self.sentence = sentence
        self.remedy = remedy


def words_of(error: Mapping[str, Any]) -> str:
    """What one entry of pydantic's `errors()` says, as a part of a sentence: no prefix, no stop."""
    words = str(error["msg"])
    for prefix in _PREFIXES:
        words = words.removeprefix(prefix)
    return words.rstrip(". ")


class SettingsError(RelaisError):
    """A setting is missing, malformed or contradicts another one."""
