"""What a module with kinds of your own needs, under a name that collides with nothing of yours.

::

    from pydantic import BaseModel

    from relais_kinds import Context, Outcome, Succeeded, kind


    class Invoice(BaseModel):
        number: str


    @kind("invoice.print", payload=Invoice)
    def print_invoice(invoice: Invoice, context: Context) -> Outcome:
        return Succeeded({"number": invoice.number})

docs/kinds.md has the whole story. Only what is exported here stays as it is between versions.
"""

from tasks.context import Context
from tasks.errors import TaskError
from tasks.kinds import Backoff, kind
from tasks.outcomes import (
    Cancelled,
    ErrorReport,
    Failed,
    Outcome,
    RetryLater,
    Snooze,
    Succeeded,
    Unknown,
)

__all__ = [
    "Backoff",
    "Cancelled",
    "Context",
    "ErrorReport",
    "Failed",
    "Outcome",
    "RetryLater",
    "Snooze",
    "Succeeded",
    "TaskError",
    "Unknown",
    "kind",
]
