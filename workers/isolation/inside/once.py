"""A process that runs one function and ends, for whoever needs one only now and then.

Started by the gateway as `python -m workers.isolation.inside.once NAME PARENT_PID MEMORY_BYTES`.
Takes the arguments as JSON on standard input; gives `{"result": {...}}` or `{"raised": {...}}` on
standard output. It knows no secret, dies with whoever started it, and is held to the same limits as
the children of workers (`child`, role `function`).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

from workers import reports
from workers.isolation import functions
from workers.isolation.inside import kernel, seccomp


def main(arguments: list[str]) -> NoReturn:
    """Run it; never returns to the interpreter."""
    name, parent_pid, memory_bytes = arguments
    kernel.die_with(int(parent_pid))
    function = functions.load(name)
    given = json.loads(sys.stdin.buffer.read())
    kernel.limit("function", memory_bytes=int(memory_bytes))
    seccomp.confine()
    answer: dict[str, Any]
    try:
        answer = {"result": function(given)}
    except BaseException as error:  # noqa: BLE001 - told to whoever asked
        answer = {"raised": reports.raised(error)}
    sys.stdout.buffer.write(json.dumps(answer).encode())
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
