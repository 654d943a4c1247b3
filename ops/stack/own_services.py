"""The user's own settings and services, looked at before the stack starts and when one fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from ops.errors import StackError, UsageError
from ops.stack import documents, variables
from ops.stack.service import State
from runtime.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ops.stack.layout import Layout

VARIABLES = {
    "postgres": ("RELAIS_DATABASE_URL", "RELAIS_DIRECT_DATABASE_URL"),
    "redis": ("RELAIS_REDIS_URL",),
    "inbox": ("RELAIS_SMTP_URL",),
}
# The first three are settled on the command line, the others are for clients.
_SETTLED = ("RELAIS_COLOUR", "RELAIS_DATA_DIR", "RELAIS_STACK")
_CLIENTS = ("RELAIS_URL", "RELAIS_API_KEY", "RELAIS_PYTHON")
RUNNING = "running"
_WITHIN_S = 30.0  # its own limit is seconds; this is for a module of kinds that never ends


def find_faults(
    only: Iterable[str] = (), *, given: Mapping[str, str] = os.environ
) -> list[Finding]:
    """What is wrong with the settings in `given` and the services of the user that they name.

    Of services those in `only` are asked, where it names nothing else; all where it is empty.
    In a process of its own: it imports the user's kinds, and more than the command line needs.
    """
    own = [name for name in given if name.startswith("RELAIS_") and given[name]]
    if not set(own) - {*_SETTLED, *_CLIENTS}:
        return []
    wanted = set(only)
    asked = wanted if wanted and wanted <= set(VARIABLES) else set(VARIABLES)
    names = [name for service in VARIABLES if service in asked for name in VARIABLES[service]]
    others = {name: value for name, value in os.environ.items() if not name.startswith("RELAIS_")}
    env = {name: value for name, value in given.items() if name not in _SETTLED}
    path = {"PYTHONPATH": variables.python_path(), "PYTHONUTF8": "1"}
    words = [sys.executable, "-P", "-m", "tasks.preflight", *names]
    try:
        done = subprocess.run(
            words,
            env={**others, **env, **path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        sentence = f"The modules in RELAIS_KINDS took more than {_WITHIN_S:.0f} s to import."
        return [Finding("", sentence, "A module of kinds must only define them.")]
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        said = " ".join(done.stderr.split()[-40:])
        sentence = f"The settings could not be checked: {said or f'exit code {done.returncode}'}."
        raise StackError(
            sentence, remedy="The installation may be incomplete; try ./relais doctor."
        )
    return [Finding(**one) for one in json.loads(lines[-1])]


def refuse_faults(only: Iterable[str] = ()) -> list[Finding]:
    """Raise UsageError for what keeps the stack from working; return what does not.

    A relay that does not answer does not: mail waits for it.
    """
    found = find_faults(only)
    fatal = [one for one in found if not is_bearable(one)]
    if fatal:
        sentences = [*(str(one) for one in fatal[:-1]), fatal[-1].told]
        raise UsageError(" ".join(sentences), remedy=fatal[-1].remedy)
    return found


def of_stack(place: Layout, seen: Mapping[str, Any]) -> list[Finding]:
    """What is wrong with what the user runs: for the stack that `report.make` has `seen`.

    Where it runs, with the settings that it runs with, if a service of the user's does not answer;
    where it is down, with those of the environment, which it would be started with.
    """
    if seen["stack"] != RUNNING:
        return find_faults()
    unwell = [
        one["name"]
        for one in seen["services"]
        if one["kept"] == "outside" and one["state"] == State.UNHEALTHY
    ]
    return find_faults(unwell, given=documents.read(place.environment) or {}) if unwell else []


def is_bearable(finding: Finding) -> bool:
    """Whether the stack works all the same, for now."""
    return finding.is_passing and finding.variable in VARIABLES["inbox"]
