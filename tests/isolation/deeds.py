"""A test kind for what the scripted ones cannot do."""

from __future__ import annotations

import os
import random
import signal
import uuid
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from tasks.kinds import kind
from tasks.outcomes import Succeeded

if TYPE_CHECKING:
    from tasks.context import Context
    from tasks.outcomes import Outcome


class Deed(BaseModel):
    """What the handler shall do."""

    deed: Literal["draw", "end_server", "leak"]


@kind("test.deed", payload=Deed, queue="template")
def do(deed: Deed, _context: Context) -> Outcome:
    """Do it."""
    match deed.deed:
        case "draw":
            drawn = [random.getrandbits(64), random.SystemRandom().getrandbits(64)]
            return Succeeded({"drawn": drawn, "uuid": str(uuid.uuid4()), "pid": os.getpid()})
        case "end_server":
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        case "leak":
            # Programs that it leaves behind shall not keep its socket to the worker open.
            os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "3600")  # noqa: S606
            os._exit(5)
    raise AssertionError
