"""A module of kinds that gives every socket of its process a time-out, as some libraries do."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from pydantic import BaseModel

from tasks.kinds import kind
from tasks.outcomes import Succeeded

if TYPE_CHECKING:
    from tasks.context import Context
    from tasks.outcomes import Outcome

TIMEOUT_S = 0.2
if "test.hasty" in os.environ.get("HASTY", ""):
    socket.setdefaulttimeout(TIMEOUT_S)


class Nothing(BaseModel):
    """No payload."""


@kind("test.hasty", payload=Nothing, queue="template")
def hasty(_payload: Nothing, _context: Context) -> Outcome:
    """Says who it is, and what its sockets would wait."""
    return Succeeded({"pid": os.getpid(), "default_s": socket.getdefaulttimeout()})
