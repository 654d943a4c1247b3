"""`python -m ops.stack.supervisor`: keeps every service of one colour running until told to stop.

It is small and does little: one thread per service (`service_monitor`), and this one,
which writes down what they know, trims logs and waits for a signal. Killed, it
leaves its children running; the next one adopts them.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ops.errors import OpsError, StackError, UsageError
from ops.stack import (
    child,
    disk_space,
    documents,
    fork_server,
    layout,
    logfiles,
    ports,
    records,
    secrets,
)
from ops.stack.catalogue import Catalogue
from ops.stack.fork_server import ForkServer
from ops.stack.layout import Layout
from ops.stack.locks import FileLock
from ops.stack.processes import Identity
from ops.stack.service import READY, Service, State
from ops.stack.service_monitor import ServiceMonitor
from ops.stack.service_states import ServiceStates
from ops.stack.sharing import Membership, own_ports
from runtime import logs

log = logs.logger("stack")

_WRITE_S = 0.2
_TRIM_S = 5.0


class Supervisor:
    """All keepers of one colour."""

    def __init__(self, place: Layout, *, only: tuple[str, ...] = ()) -> None:
        """`only` names the services wanted; empty: all."""
        self._place = place
        self._only = only
        self._stop = threading.Event()
        self._broken: StackError | None = None
        self._membership = Membership(place)
        self._monitors: list[ServiceMonitor] = []
        self._fork_server = ForkServer(records.mark(place.run, fork_server.NAME))
        self._written: dict[str, Any] | None = None
        self._started_at = time.time()

    def ask_to_stop(self) -> None:
        """Have `run` stop everything and return."""
        self._stop.set()

    def break_down(self, problem: threading.ExceptHookArgs) -> None:
        """Have `run` stop everything and raise: nobody would watch or restart that service."""
        name = problem.thread.name if problem.thread else "?"
        log.error("stack.keeper_broken", name=name, exc_info=problem.exc_value)
        sentence = f"The thread that monitors {name} failed: {problem.exc_type.__name__}: "
        remedy = f"See {self._place.logs / 'supervisor.log'}."
        self._broken = StackError(f"{sentence}{problem.exc_value}.", remedy=remedy)
        self._stop.set()

    def run(self) -> None:
        """Start everything, keep it, and stop it in reverse order when asked.

        Raises StackError, with nothing started, where a port is taken or the disk is full, and with
        everything stopped where one of its own threads breaks down.
        """
        known = secrets.ensure(self._place.secrets)
        user = dict(os.environ)
        draft = Catalogue(self._place, secrets=known, shared=own_ports(self._place), user=user)
        embedded = {
            service.name
            for service in draft.services(self._only)
            if service.place.shared and service.command is not None
        }
        shared = self._membership.join(embedded)
        try:
            book = Catalogue(self._place, secrets=known, shared=shared, user=user)
            services = book.services(self._only)
            self._refuse_early(services)
            documents.write(self._place.environment, dict(book.variables))
            self._start(services)
            self._keep()
        finally:
            self._shut_down()
        if self._broken is not None:
            raise self._broken

    def _start(self, services: list[Service]) -> None:
        board = ServiceStates()
        for service in services:
            mark = records.mark(service.place.run, service.name)
            lock = self._membership.lock(service.name) if service.place.shared else None
            is_forked = service.forked and fork_server.IS_AVAILABLE
            spawn = self._fork_server.spawn if is_forked else child.spawn
            self._monitors.append(ServiceMonitor(service, board, mark=mark, lock=lock, spawn=spawn))
        if fork_server.IS_AVAILABLE and any(service.forked for service in services):
            self._fork_server.warm()  # it imports while the servers start
        self._clear_forgotten(services)
        for monitor in self._monitors:
            monitor.start()

    def _clear_forgotten(self, services: list[Service]) -> None:
        """Stop what an earlier supervisor started and this one does not want."""
        wanted = {service.name for service in services}
        found = records.read_all(self._place.run)
        records.stop_all(record for record in found if record.name not in wanted)

    def _refuse_early(self, services: list[Service]) -> None:
        disk_space.require(self._place.data_dir)
        for service in services:
            keeps = not service.place.shared or self._membership.lock(service.name).held
            if service.command is None or not keeps or service.running() is not None:
                continue
            record = records.read(service.record)
            if record is None or not record.identity.alive():
                for port in service.ports:
                    ports.require_free(port, service=service.name)

    def _keep(self) -> None:
        trimmed_at = time.monotonic()
        while not self._stop.wait(_WRITE_S):
            self._write()
            if time.monotonic() - trimmed_at > _TRIM_S:
                trimmed_at = time.monotonic()
                logfiles.trim(self._place.logs)
                logfiles.trim(self._place.shared_logs)

    def _shut_down(self) -> None:
        for monitor in self._monitors:
            monitor.halt()
        for monitor in self._monitors:
            if monitor.is_alive():
                monitor.join()
        self._write(stopping=True)
        records.stop_all(records.read_all(self._place.run), say=_say_stopped)
        self._membership.leave(say=_say_stopped)
        self._fork_server.close()
        self._place.state.unlink(missing_ok=True)
        self._place.supervisor.unlink(missing_ok=True)

    def _write(self, *, stopping: bool = False) -> None:
        views = [monitor.view() for monitor in self._monitors]
        forking = self._fork_server.identity
        ready = all(State(view["state"]) in READY or view["optional"] for view in views)
        content = {
            "colour": self._place.colour,
            "data_dir": str(self._place.data_dir),
            "port_base": self._place.port_base,
            "pid": os.getpid(),
            "started_at": round(self._started_at, 3),
            "ready": ready and not stopping,
            "stopping": stopping,
            "only": list(self._only),
            "fork_server": (
                None if forking is None else {"pid": forking.pid, "started": forking.started}
            ),
            "services": views,
        }
        if content != self._written:
            documents.write(self._place.state, content)
            self._written = content


def _say_stopped(name: str) -> None:
    log.info("stack.stopping", name=name)


def main(arguments: list[str]) -> int:
    """Run until SIGTERM or SIGINT; 1 where it could not start, with the reason written down."""
    parser = argparse.ArgumentParser(prog="python -m ops.stack.supervisor")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--colour", choices=layout.COLOURS, required=True)
    parser.add_argument("--port-base", type=int, required=True)
    parser.add_argument("--only", action="append", default=[])
    options = parser.parse_args(arguments)
    logs.configure(service="stack", colour=options.colour)
    place = layout.find(options.data_dir, options.colour, options.port_base)
    try:
        place.make()
        return _run_alone(place, tuple(options.only))
    except OpsError as error:
        log.error("stack.refused", reason=str(error))
        refusal = {
            "sentence": error.sentence,
            "remedy": error.remedy,
            "wrong_input": isinstance(error, UsageError),
        }
        documents.write(place.refusal, refusal)
        return 1


def _run_alone(place: Layout, only: tuple[str, ...]) -> int:
    lock = FileLock(place.lock)
    if not lock.take():
        sentence = f"Another supervisor is already running {place.colour} in {place.data_dir}."
        raise StackError(sentence, remedy=f"See {place.command('status')}.")
    place.refusal.unlink(missing_ok=True)
    own = Identity.of(os.getpid())
    if own is not None:
        documents.write(place.supervisor, {"pid": own.pid, "started": own.started})
    supervisor = Supervisor(place, only=only)
    for how in (signal.SIGTERM, signal.SIGINT):
        signal.signal(how, lambda _number, _frame: supervisor.ask_to_stop())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.excepthook = supervisor.break_down
    supervisor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
