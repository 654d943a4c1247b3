"""Errors of handlers and their surroundings.

RelaisError
└── TaskError
    ├── KindError          a kind is badly defined or missing
    ├── PayloadError       a stored payload does not fit its kind any more: permanent
    ├── SmtpError          a conversation with a relay went wrong
    ├── BlockedAddress     the SSRF guard refused a destination: permanent
    └── RenderError        a template is wrong or exceeds its limits: permanent
"""

from __future__ import annotations

from runtime.errors import RelaisError


class TaskError(RelaisError):
    """Something in a handler or around it is wrong."""


class KindError(TaskError):
    """A kind is badly defined or missing."""


class PayloadError(TaskError):
    """A stored payload does not fit its kind any more."""


class SmtpError(TaskError):
    """A conversation with a relay went wrong."""


class BlockedAddress(TaskError):  # noqa: N818 - reads as the sentence it is
    """The SSRF guard refused a destination."""


class RenderError(TaskError):
    """A template is wrong or exceeds its limits."""
