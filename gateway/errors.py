"""What the HTTP API refuses, and why: every refusal is a `Problem` with a stable code.

RelaisError
└── Problem      answered as application/problem+json (RFC 9457)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.errors import RelaisError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# code: (HTTP status, title). Codes are a promise: docs/api.md lists them, a test holds both.
CODES: dict[str, tuple[int, str]] = {
    "malformed_json": (400, "The body is not JSON"),
    "credentials_missing": (401, "No credentials were given"),
    "credentials_invalid": (401, "The credentials are not valid"),
    "key_expired": (401, "The API key has expired"),
    "key_revoked": (401, "The API key was revoked"),
    "role_missing": (403, "The caller's role may not do this"),
    "house_only": (403, "Only the house tenant may do this"),
    "not_found": (404, "There is no such thing"),
    "path_unknown": (404, "There is no such path"),
    "method_not_allowed": (405, "The path does not know this method"),
    "body_too_slow": (408, "The body did not arrive in time"),
    "wrong_state": (409, "The state does not allow this"),
    "body_too_large": (413, "The body is too large"),
    "too_many_jobs": (413, "The batch holds too many jobs"),
    "media_type_unsupported": (415, "The body is of the wrong type"),
    "value_invalid": (422, "A value is not valid"),
    "body_too_deep": (422, "The body is nested too deeply"),
    "kind_unknown": (422, "There is no such kind"),
    "parent_unknown": (422, "A parent job does not exist"),
    "idempotency_conflict": (422, "The idempotency key was used for another body"),
    "nothing_accepted": (422, "No job of the batch was accepted"),
    "rate_limited": (429, "Too many requests"),
    "internal_error": (500, "Something went wrong in the gateway"),
    "ledger_unavailable": (503, "The ledger does not answer"),
    "ledger_unfit": (503, "The database is not fit to hold jobs"),
}
ERRORS_MAX = 50


class Problem(RelaisError):
    """A refusal; `code` decides the HTTP status and the title."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        remedy: str = "",
        field: str | None = None,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """`errors` has one `{field, code, detail}` for each wrong value; `extra` is added as is."""
        super().__init__(detail, remedy=remedy)
        self.code = code
        self.status, self.title = CODES[code]
        self.field = field
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def document(self) -> dict[str, Any]:
        """The problem as RFC 9457 writes it, with Relais' own members."""
        document: dict[str, Any] = {
            "type": f"/docs#{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.sentence,
        }
        if self.field is not None:
            document["field"] = self.field
        if self.remedy:
            document["remedy"] = self.remedy
        if self.errors:
            document["errors"] = self.errors[:ERRORS_MAX]
        return document | self.extra

    def line(self, index: int) -> dict[str, Any]:
        """The problem as one entry among the errors of a batch."""
        entry: dict[str, Any] = {"index": index, "code": self.code, "detail": self.sentence}
        if self.field is not None:
            entry["field"] = self.field
        if self.remedy:
            entry["remedy"] = self.remedy
        if len(self.errors) > 1:
            entry["errors"] = self.errors[:ERRORS_MAX]
        return entry
