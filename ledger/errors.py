"""Errors of the ledger.

RelaisError
└── LedgerError
    ├── LedgerUnavailable    Postgres does not respond: try again later
    ├── UnfitDatabase        fsync or synchronous_commit is off, or the schema is not migrated
    ├── NotFound             no such row for this tenant
    ├── WrongState           the row's state does not allow this
    ├── InvalidKey           an API key was requested that cannot be created
    ├── IdempotencyConflict  the key was used with a different body
    └── InvalidSchedule      a schedule's cron expression, time zone or job is wrong
"""

from __future__ import annotations

from runtime.errors import RelaisError


class LedgerError(RelaisError):
    """The ledger could not do what was requested."""


class LedgerUnavailable(LedgerError):  # noqa: N818 - reads as the state it names
    """Postgres does not respond."""


class UnfitDatabase(LedgerError):  # noqa: N818 - reads as the state it names
    """The database cannot be trusted with jobs as it is."""


class NotFound(LedgerError):  # noqa: N818 - reads as the state it names
    """No such row for this tenant."""


class WrongState(LedgerError):  # noqa: N818 - reads as the state it names
    """The row's state does not allow this."""


class IdempotencyConflict(LedgerError):  # noqa: N818 - reads as the state it names
    """The idempotency key was used with a different body."""


class InvalidKey(LedgerError):  # noqa: N818 - reads as the state it names
    """An API key was requested that cannot be created."""


class InvalidSchedule(LedgerError):  # noqa: N818 - reads as the state it names
    """A field of a schedule is wrong; `field` says which: name, cron, timezone or job."""

    def __init__(self, sentence: str, *, field: str, remedy: str = "") -> None:
        super().__init__(sentence, remedy=remedy)
        self.field = field
