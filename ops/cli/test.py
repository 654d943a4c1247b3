"""`relais test`: run the project's own tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib import util

import typer

# The tests start their own services; more processes than cores only wait for each other.
_PROCESSES = "2"


def test(context: typer.Context) -> int:
    """Run the tests; further arguments go to pytest, as in: ./relais test tests/ledger -k claim."""
    from ops.errors import OpsError
    from ops.stack.layout import CHECKOUT

    if util.find_spec("pytest") is None or util.find_spec("xdist") is None:
        sentence = "The tests need pytest, which is not installed here."
        raise OpsError(sentence, remedy="Start them with ./relais test, which installs it.")
    own = [] if _chooses_processes(context.args) else ["-n", _PROCESSES]
    began = time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "pytest", *own, *context.args]
    code = subprocess.run(command, cwd=CHECKOUT, env=env, check=False).returncode
    result = "passed" if code == 0 else f"ended with exit code {code}"
    print(f"The tests {result} after {time.monotonic() - began:.1f} s.", file=sys.stderr)
    return code


def _chooses_processes(arguments: list[str]) -> bool:
    return any(word.startswith(("-n", "--numprocesses")) or word == "-p" for word in arguments)
