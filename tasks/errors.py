"""Errors of handlers and their surroundings.

RelaisError
└── TaskError
    ├── KindError          a kind is badly defined or missing
    ├── PayloadError       a stored payload no longer fits its kind: permanent
    ├── SmtpError          a conversation with a relay went wrong
    ├── BlockedAddress     the SSRF guard refused a destination: permanent
    ├── Unreachable        a destination could not be reached or did not respond: transient
    ├── FeedbackError      what a mail provider sent cannot be read: permanent
    ├── RenderError        a template is wrong or exceeds its limits: permanent
    └── SigningKeyError    a DKIM key cannot be used: permanent
"""

from __future__ import annotations

from runtime.errors import RelaisError


class TaskError(RelaisError):
    """Something in a handler or around it is wrong."""


class KindError(TaskError):
    """A kind is badly defined or missing."""


class PayloadError(TaskError):
    """A stored payload no longer fits its kind."""


class SmtpError(TaskError):
    """A conversation with a relay went wrong."""


class BlockedAddress(TaskError):  # noqa: N818 - reads as the sentence it is
    """The SSRF guard refused a destination."""


class Unreachable(TaskError):  # noqa: N818 - reads as the state it names
    """A destination could not be reached or did not respond."""

    def __init__(self, sentence: str, *, remedy: str = "", was_sent: bool = False) -> None:
        super().__init__(sentence, remedy=remedy)
        self.was_sent = was_sent  # the other side may have acted on the request


class FeedbackError(TaskError):
    """What a mail provider sent cannot be read."""


class RenderError(TaskError):
    """A template is wrong or exceeds its limits."""


class SigningKeyError(TaskError):
    """A DKIM key cannot be used."""
