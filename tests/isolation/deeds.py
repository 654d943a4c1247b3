"""A test kind for what the scripted ones cannot do."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from tasks.kinds import kind
from tasks.outcomes import Succeeded

if TYPE_CHECKING:
    from tasks.context import Context
    from tasks.outcomes import Outcome


class Deed(BaseModel):
    """What the handler shall do."""

    deed: Literal["daemon", "draw", "end_server", "leak"]
    noted: Path | None = None  # where the daemon notes its process id
    then: Literal["return", "hang", "abort"] = "return"


@kind("test.deed", payload=Deed, queue="template")
def do(deed: Deed, _context: Context) -> Outcome:
    """Do it."""
    match deed.deed:
        case "daemon":
            # Twice forked, in a session of its own, without our environment: as daemons are started.
            subprocess.run(
                [
                    "env",
                    "-i",
                    "sh",
                    "-c",
                    f"(setsid sh -c 'echo $$ > {deed.noted}; exec sleep 3600' &)",
                ],
                check=True,
            )
            return _then(deed)
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


def _then(deed: Deed) -> Outcome:
    assert deed.noted is not None
    while not deed.noted.exists() or not deed.noted.read_text():
        time.sleep(0.01)
    if deed.then == "hang":
        time.sleep(3_600)
    if deed.then == "abort":
        os.abort()
    return Succeeded()
