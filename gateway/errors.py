"""What the HTTP API refuses, and why: every refusal is a `Problem` with a stable code.

RelaisError
└── Problem          answered as application/problem+json (RFC 9457)
    └── TooLarge     answered while the client may still be sending
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from runtime.errors import RelaisError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Code(StrEnum):
    """What a caller's program may rely on; the meaning of a code never changes."""

    MALFORMED_JSON = "malformed_json"
    REQUEST_MALFORMED = "request_malformed"
    CREDENTIALS_MISSING = "credentials_missing"
    CREDENTIALS_INVALID = "credentials_invalid"
    KEY_EXPIRED = "key_expired"
    KEY_REVOKED = "key_revoked"
    ROLE_MISSING = "role_missing"
    DEFAULT_TENANT_ONLY = "default_tenant_only"
    NOT_FOUND = "not_found"
    PATH_UNKNOWN = "path_unknown"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BODY_TOO_SLOW = "body_too_slow"
    HEADERS_TOO_SLOW = "headers_too_slow"
    WRONG_STATE = "wrong_state"
    BODY_TOO_LARGE = "body_too_large"
    TOO_MANY_JOBS = "too_many_jobs"
    URL_TOO_LONG = "url_too_long"
    MEDIA_TYPE_UNSUPPORTED = "media_type_unsupported"
    VALUE_INVALID = "value_invalid"
    BODY_TOO_DEEP = "body_too_deep"
    KIND_UNKNOWN = "kind_unknown"
    KIND_INTERNAL = "kind_internal"
    PARENT_UNKNOWN = "parent_unknown"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    NOTHING_ACCEPTED = "nothing_accepted"
    RATE_LIMITED = "rate_limited"
    HEADERS_TOO_LARGE = "headers_too_large"
    INTERNAL_ERROR = "internal_error"
    GATEWAY_BUSY = "gateway_busy"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    LEDGER_UNFIT = "ledger_unfit"


# HTTP status and title. docs/api.md lists them; a test compares the two.
CODES: dict[Code, tuple[int, str]] = {
    Code.MALFORMED_JSON: (400, "The body is not JSON"),
    Code.REQUEST_MALFORMED: (400, "The request is not valid HTTP"),
    Code.CREDENTIALS_MISSING: (401, "No credentials were given"),
    Code.CREDENTIALS_INVALID: (401, "The credentials are not valid"),
    Code.KEY_EXPIRED: (401, "The API key has expired"),
    Code.KEY_REVOKED: (401, "The API key was revoked"),
    Code.ROLE_MISSING: (403, "The caller's role may not do this"),
    Code.DEFAULT_TENANT_ONLY: (403, "Only the default tenant may do this"),
    Code.NOT_FOUND: (404, "Not found"),
    Code.PATH_UNKNOWN: (404, "Path not found"),
    Code.METHOD_NOT_ALLOWED: (405, "The path does not support this method"),
    Code.BODY_TOO_SLOW: (408, "The body did not arrive in time"),
    Code.HEADERS_TOO_SLOW: (408, "The headers did not arrive in time"),
    Code.WRONG_STATE: (409, "The state does not allow this"),
    Code.BODY_TOO_LARGE: (413, "The body is too large"),
    Code.TOO_MANY_JOBS: (413, "The batch holds too many jobs"),
    Code.URL_TOO_LONG: (414, "The URL is too long"),
    Code.MEDIA_TYPE_UNSUPPORTED: (415, "The content type is not supported"),
    Code.VALUE_INVALID: (422, "A value is not valid"),
    Code.BODY_TOO_DEEP: (422, "The body is nested too deeply"),
    Code.KIND_UNKNOWN: (422, "Unknown kind"),
    Code.KIND_INTERNAL: (422, "Only Relais itself creates jobs of this kind"),
    Code.PARENT_UNKNOWN: (422, "A parent job does not exist"),
    Code.IDEMPOTENCY_CONFLICT: (422, "The idempotency key was used with a different body"),
    Code.NOTHING_ACCEPTED: (422, "No job of the batch was accepted"),
    Code.RATE_LIMITED: (429, "Too many requests"),
    Code.HEADERS_TOO_LARGE: (431, "The headers are too large"),
    Code.INTERNAL_ERROR: (500, "Something went wrong in the gateway"),
    Code.GATEWAY_BUSY: (503, "The gateway is overloaded"),
    Code.LEDGER_UNAVAILABLE: (503, "The ledger does not respond"),
    Code.LEDGER_UNFIT: (503, "The database is not fit for jobs"),
}
ERRORS_MAX = 50


class Problem(RelaisError):  # noqa: N818 - RFC 9457 calls it that
    """A refusal; `code` decides the HTTP status and the title."""

    def __init__(
        self,
        code: Code,
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

    def under(self, *, prefix: str) -> Problem:
        """The same problem, for a value inside the field `prefix`."""
        return Problem(
            self.code,
            self.sentence,
            remedy=self.remedy,
            field=f"{prefix}.{self.field}" if self.field else prefix,
            errors=[{**entry, "field": f"{prefix}.{entry['field']}"} for entry in self.errors],
            headers=self.headers,
            extra=self.extra,
        )

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


class TooLarge(Problem):
    """The body is larger than it may be, and not all of it was read."""
