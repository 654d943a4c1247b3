"""Bringing a colour up, taking it down, and asking how it is, from outside the supervisor."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from signal import SIGTERM
from typing import Any, Final

from ops.errors import StackError, UsageError
from ops.stack import child, documents, locks, logfiles, own_services, records, variables
from ops.stack import layout as places
from ops.stack.layout import Layout
from ops.stack.locks import FileLock
from ops.stack.processes import Identity
from ops.stack.service import READY, State
from ops.stack.sharing import Membership

_LOOK_S = 0.05
_TELL_S = 2.0
_UP_S: Final = 120.0
_DOWN_S: Final = 180.0
_HOPELESS_AFTER = 3
USAGE = 2  # with what a process ends that was given something wrong

Watcher = Callable[[dict[str, Any]], None]


def is_running(place: Layout) -> bool:
    """Whether a supervisor keeps this colour."""
    return place.run.exists() and locks.taken(place.lock)


def start(
    place: Layout, *, only: tuple[str, ...] = (), warn: Callable[[str], None] = lambda _: None
) -> None:
    """Start the supervisor where none runs; returns at once.

    Raises UsageError for settings and services of the user that are wrong; `warn` is told of what
    the stack can do without.
    """
    place.make()
    if is_running(place):
        return
    for bearable in own_services.refuse_faults(only):
        warn(str(bearable))
    place.refusal.unlink(missing_ok=True)
    place.state.unlink(missing_ok=True)
    words = (
        *(sys.executable, "-m", "ops.stack.supervisor", "--data-dir", str(place.data_dir)),
        *("--colour", place.colour, "--port-base", str(place.port_base)),
        *(word for name in only for word in ("--only", name)),
    )
    # One arena: a dozen threads that mostly sleep need no heap of their own.
    env = {**os.environ, "PYTHONPATH": variables.python_path(), "MALLOC_ARENA_MAX": "1"}
    env.pop(records.MARK, None)
    log = place.logs / "supervisor.log"
    with logfiles.to_append(log) as output:
        process = child.spawn(child.Command(words, env), log=output)
    while not (is_running(place) and state(place)):
        if process.poll() is not None:
            _raise_refusal(place)
            sentence = f"The supervisor ended with {child.ending(process.returncode)}."
            raise StackError(sentence, remedy=f"{child.tail(log)} See {log}.")
        time.sleep(_LOOK_S)


def wait_ready(place: Layout, *, watch: Watcher = lambda _: None) -> dict[str, Any]:
    """Wait until every service is healthy, and return the state.

    Raises StackError that names what is not, with the last lines of its log,
    as soon as waiting longer is no use.
    """
    deadline = time.monotonic() + _UP_S
    while True:
        seen = state(place)
        if not is_running(place):
            _raise_refusal(place)
            sentence = "The supervisor has ended."
            raise StackError(sentence, remedy=f"See {place.logs / 'supervisor.log'}.")
        if seen:
            watch(seen)
            if seen["ready"]:
                return seen
            late = time.monotonic() > deadline
            failed = [one for one in seen["services"] if _is_hopeless(one, late=late)]
            if failed:
                logs_of = place.command(f"logs {failed[0]['name']}")
                raise StackError(
                    " ".join(_complaint(one) for one in failed),
                    remedy=f"See {logs_of}; stop the rest: {place.command('down')}",
                )
        time.sleep(_LOOK_S)


def up(place: Layout, *, only: tuple[str, ...] = (), watch: Watcher = lambda _: None) -> None:
    """Start what is not running and return when everything is healthy; raises StackError."""
    start(place, only=only)
    wait_ready(place, watch=watch)


def telling(say: Callable[[str], None]) -> Watcher:
    """A watcher that says every two seconds what is not healthy yet."""
    began = told = time.monotonic()

    def watch(seen: dict[str, Any]) -> None:
        nonlocal told
        if time.monotonic() - told < _TELL_S:
            return
        told = time.monotonic()
        waiting = [one["name"] for one in seen["services"] if one["state"] not in READY]
        say(f"  ... {told - began:.0f} s, waiting for {', '.join(waiting) or 'nothing'}")

    return watch


def down(place: Layout, *, say: Callable[[str], None] = lambda _: None) -> bool:
    """Stop this colour, and the shared services if nobody else uses them.

    `say` is told each name. False where nothing was running.
    """
    if not place.run.exists():
        return False
    while True:
        if not is_running(place):
            return _clear(place, say)
        # Written right after the lock is taken: there is at most a moment to wait.
        supervisor = documents.read(place.supervisor)
        if supervisor is not None and Identity(supervisor["pid"], supervisor["started"]).alive():
            break
        time.sleep(_LOOK_S)
    identity = Identity(supervisor["pid"], supervisor["started"])
    remaining = _kept(place)
    identity.send(SIGTERM)
    deadline = time.monotonic() + _DOWN_S
    ended = False
    while not ended:
        ended = identity.wait(_LOOK_S)
        for name in [name for name, one in remaining.items() if not one.alive()]:
            del remaining[name]
            say(name)
        if time.monotonic() > deadline:
            sentence = f"The supervisor (pid {identity.pid}) does not stop."
            raise StackError(sentence, remedy=f"See {place.logs / 'supervisor.log'}.")
    return True


def state(place: Layout) -> dict[str, Any] | None:
    """What the present supervisor wrote last; None where there is nothing.

    What an earlier one left behind says nothing about now.
    """
    seen, supervisor = documents.read(place.state), documents.read(place.supervisor)
    if seen is None or supervisor is None or seen["pid"] != supervisor["pid"]:
        return None
    return seen


def differences(
    place: Layout, *, only: tuple[str, ...] = (), port_base: int | None = None
) -> list[str]:
    """What was asked for, in options and the environment, that the running stack is not."""
    from runtime.settings import Settings  # noqa: PLC0415 - pydantic, which this alone needs

    running, seen = documents.read(place.environment) or {}, state(place) or {}
    known = {f"RELAIS_{name.upper()}" for name in Settings.model_fields}
    given = {name: value for name, value in os.environ.items() if name in known and value}
    settled = {"RELAIS_COLOUR", "RELAIS_DATA_DIR"}
    found = [name for name in sorted(given.keys() - settled) if running.get(name) != given[name]]
    if port_base is not None and seen and port_base != seen["port_base"]:
        found.append("--port-base")
    if seen.get("only"):
        there = {one["name"] for one in seen["services"]}
        found += ["--only"] if not only or not set(only) <= there else []
    return found


def environment(place: Layout) -> dict[str, str]:
    """Environment for a process that belongs to this colour; raises StackError where it is down."""
    found = documents.read(place.environment)
    if found is None or not is_running(place):
        sentence = f"The local stack ({place.colour}) is not up."
        raise StackError(sentence, remedy=f"Start it: {place.command('up --detach')}")
    return variables.for_process(found)


def leftovers(place: Layout) -> list[records.Record]:
    """What still runs although its supervisor is gone."""
    folders = (place.run,) if _others_run(place) else (place.run, place.shared / "run")
    found = [record for folder in folders for record in records.read_all(folder)]
    return [record for record in found if record.identity.alive()]


def _clear(place: Layout, say: Callable[[str], None]) -> bool:
    """Do what the supervisor would have done at its end, had it not been killed."""
    lock = FileLock(place.lock)
    if not lock.take():
        return False
    try:
        found = leftovers(place)
        records.stop_all(records.read_all(place.run), say=say)
        records.clear_strays(records.mark(place.run))
        Membership(place).leave(say=say)
        place.state.unlink(missing_ok=True)
        place.supervisor.unlink(missing_ok=True)
        return bool(found)
    finally:
        lock.release()


def _others_run(place: Layout) -> bool:
    others = (place.other(colour) for colour in places.COLOURS if colour != place.colour)
    return any(is_running(other) for other in others)


def _kept(place: Layout) -> dict[str, Identity]:
    """The processes that this colour's supervisor keeps, by service."""
    seen = state(place) or {"services": []}
    return {
        one["name"]: Identity(one["pid"], one["started"])
        for one in seen["services"]
        if one["kept"] == "here" and one["pid"]
    }


def _is_hopeless(service: dict[str, Any], *, late: bool) -> bool:
    if service["state"] in READY:
        return False
    # What waits for another fails only because that one does: name the other.
    if service["state"] == State.WAITING or service["optional"]:
        return False
    if service["last_exit"] == child.ending(USAGE):
        return True  # something must be changed first; the next start would end in the same way
    return bool(late or service["fatal"] or service["failures"] >= _HOPELESS_AFTER)


def _complaint(service: dict[str, Any]) -> str:
    ended = f" It ended with {service['last_exit']}." if service["last_exit"] else ""
    reason = f" {service['reason']}" if service["reason"] else ""
    return f"{service['name']} is {service['state']}.{ended}{reason}"


def _raise_refusal(place: Layout) -> None:
    refusal = documents.read(place.refusal)
    if refusal is not None:
        kind = UsageError if refusal["wrong_input"] else StackError
        raise kind(refusal["sentence"], remedy=refusal["remedy"])
