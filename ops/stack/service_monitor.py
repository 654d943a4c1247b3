"""Keeps one service up: waits for what it needs, starts or adopts it, asks it, restarts it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from ops.errors import OpsError
from ops.stack import child, disk_space, logfiles, ports, records
from ops.stack.processes import Identity
from ops.stack.service import Service, State, fingerprint
from ops.stack.service_states import ServiceStates
from runtime import logs
from runtime.backoff import Backoff

if TYPE_CHECKING:
    from ops.stack.child import Spawn
    from ops.stack.locks import FileLock

log = logs.logger("stack")

_LOOK_STARTING_S = 0.1
_LOOK_S = 0.25
_ASK_STARTING_S = 0.2
_ASK_S = 2.0
_TAKE_OVER_S = 0.5
_HUNG_S = 60.0


class ServiceMonitor(threading.Thread):
    """One thread, one service. `lock` is given for a shared service: who holds it keeps it."""

    def __init__(
        self,
        service: Service,
        states: ServiceStates,
        *,
        mark: str,
        lock: FileLock | None,
        spawn: Spawn = child.spawn,
    ) -> None:
        """Nothing starts before `start`; `spawn` starts its processes."""
        super().__init__(name=service.name, daemon=True)
        self.service = service
        self.state = State.WAITING
        self._states = states
        self._mark = mark
        self._lock = lock
        self._spawn_process = spawn
        self._halt = threading.Event()
        self._process: child.Process | None = None
        self._identity: Identity | None = None
        self._log_from = 0
        self._restarts = 0
        self._backoff = Backoff()
        self._fatal = False
        self._last_exit = ""
        self._last_exit_at: float | None = None
        self._reason = ""
        self._since = time.time()
        states.post(service.name, self.state)

    def halt(self) -> None:
        """Stop keeping: the process stays, nobody restarts it. Join afterwards."""
        self._halt.set()

    def view(self) -> dict[str, Any]:
        """What `status` shows, as JSON."""
        identity = self._identity
        return {
            "name": self.service.name,
            "state": self.state.value,
            "pid": identity.pid if identity else None,
            "started": identity.started if identity else None,
            "since": round(self._since, 3),
            "restarts": self._restarts,
            "failures": self._backoff.failures,
            "fatal": self._fatal,
            "last_exit": self._last_exit or None,
            "last_exit_at": self._last_exit_at,
            "reason": self._reason or None,
            "address": self.service.address or None,
            "log": str(self.service.log),
            "shared": self.service.place.shared,
            "kept": self._kept(),
            "optional": self.service.optional,
        }

    def run(self) -> None:
        """Keep the service until halted."""
        waited_for: tuple[str, ...] = (*self.service.needs, *self.service.after)
        while not self._halt.is_set():
            if self._kept() != "here":
                self._look_on()
                continue
            if not self._states.wait_ready(waited_for, _LOOK_S):
                self._enter(State.WAITING)
                continue
            waited_for = self.service.needs
            if self._begin() and self._watch():
                return
            if not self._halt.is_set():
                self._back_off()

    def _kept(self) -> str:
        """Who keeps it: `here`, the `other` colour's supervisor, or somebody `outside`."""
        if self.service.command is None:
            return "outside"
        return "here" if self._lock is None or self._lock.held else "other"

    def _look_on(self) -> None:
        """Ask a service that somebody else keeps; take it over when that one is gone."""
        if self._lock is not None and self.service.command is not None and self._lock.take():
            log.info("stack.taken_over", name=self.service.name)
            return
        healthy = self.service.healthy(None, _ASK_STARTING_S)
        self._reason = "" if healthy else f"No response at {self.service.address}."
        self._enter(State.HEALTHY if healthy else State.UNHEALTHY)
        self._halt.wait(_TAKE_OVER_S)

    def _begin(self) -> bool:
        """Adopt what runs or start anew; False where that failed, with the reason kept."""
        assert self.service.command is not None  # noqa: S101 - `_kept` said "here"
        try:
            disk_space.require(self.service.log.parent)
            command = self.service.command()
            command = command.marked(records.MARK, self._mark)
            self._enter(State.STARTING)
            if not self._adopt(command):
                self._spawn(command)
        except (OpsError, OSError) as error:
            self._reason = str(error)
            self._fatal = True
            self._backoff.failed()
            log.error("stack.start_failed", name=self.service.name, reason=self._reason)
            return False
        self._fatal = False
        return True

    def _adopt(self, command: child.Command) -> bool:
        """Go on with what an earlier supervisor started the same way; stop anything else."""
        record = records.read(self.service.record)
        if record is not None and record.identity.alive():
            if record.fingerprint == fingerprint(command):
                self._process, self._identity = None, record.identity
                self._restarts = record.restarts
                self._last_exit, self._last_exit_at = record.last_exit, record.last_exit_at
                log.info("stack.adopted", name=self.service.name, pid=record.identity.pid)
                return True
            record.stop()
        pid = self.service.running()
        unrecorded = Identity.of(pid) if pid is not None else None
        if unrecorded is not None:
            self._write_record(unrecorded, "").stop()
        records.clear_strays(self._mark)
        return False

    def _spawn(self, command: child.Command) -> None:
        for port in self.service.ports:
            ports.require_free(port, service=self.service.name)
        with logfiles.to_append(self.service.log) as output:
            self._log_from = output.tell()
            self._process = self._spawn_process(command, log=output)
        # A child that ended at once is still there as a zombie until it is polled.
        self._identity = Identity.of(self._process.pid)
        if self._identity is not None:
            self._write_record(self._identity, fingerprint(command))
        log.info("stack.started", name=self.service.name, pid=self._process.pid)

    def _write_record(self, identity: Identity, made_by: str) -> records.Record:
        record = records.Record(
            path=self.service.record,
            name=self.service.name,
            mark=self._mark,
            identity=identity,
            fingerprint=made_by,
            stop_signal=self.service.stop_signal,
            grace_s=self.service.grace_s,
            order=self.service.order,
            restarts=self._restarts,
            last_exit=self._last_exit,
            last_exit_at=self._last_exit_at,
        )
        record.write()
        return record

    def _watch(self) -> bool:
        """Watch until it ends or this monitor is halted; True where there is no more to do."""
        asked_at, failing_since, healthy_since = float("-inf"), time.monotonic(), None
        while not self._halt.wait(_LOOK_S if self.state is State.HEALTHY else _LOOK_STARTING_S):
            ending = self._ending()
            now = time.monotonic()
            if ending is not None:
                if healthy_since is not None:
                    self._backoff.healthy(for_s=now - healthy_since)
                return self._ended(ending)
            every_s = _ASK_S if self.state is State.HEALTHY else _ASK_STARTING_S
            if self.service.once or now - asked_at < every_s:
                continue
            asked_at = now
            if self._asked(every_s):
                healthy_since = healthy_since or now
                failing_since = now
                self._backoff.healthy(for_s=now - healthy_since)
            elif not self._states.ready(self.service.needs):
                failing_since = now
            elif now - failing_since >= _HUNG_S and self.service.restart_when_hung:
                self._kill_hung()
        return True

    def _asked(self, age_max_s: float) -> bool:
        pid = self._identity.pid if self._identity else None
        if self.service.healthy(pid, age_max_s):
            self._reason = ""
            self._enter(State.HEALTHY)
            return True
        if self.state is State.HEALTHY:
            self._reason = "It is running but does not respond."
            log.warning("stack.unhealthy", name=self.service.name)
            self._enter(State.UNHEALTHY)
        return False

    def _kill_hung(self) -> None:
        self._reason = f"It did not respond for {_HUNG_S:.0f} s and was killed."
        log.warning("stack.hung", name=self.service.name)
        record = records.read(self.service.record)
        if record is not None:
            record.stop()

    def _ending(self) -> str | None:
        """How the process ended, in words; None while it runs."""
        if self._process is not None:
            try:
                code = self._process.poll()
            except ChildProcessError:  # its parent has ended, who would have known
                self._process = None
            else:
                return None if code is None else child.ending(code)
        alive = self._identity is not None and self._identity.alive()
        return None if alive else "ended unseen"

    def _ended(self, ending: str) -> bool:
        """Note how it ended; True where that is the end of a one-shot's work."""
        self._last_exit, self._last_exit_at = ending, round(time.time(), 3)
        self._identity = None
        self._process = None
        records.clear_strays(self._mark)
        self.service.record.unlink(missing_ok=True)
        if self.service.once and ending == child.ending(0):
            self._reason = ""
            self._enter(State.DONE)
            return True
        self._backoff.failed()
        self._restarts += 1
        self._reason = child.tail(self.service.log, lines=3, since=self._log_from)
        log.warning("stack.ended", name=self.service.name, ending=ending)
        return False

    def _back_off(self) -> None:
        self._enter(State.RESTARTING)
        self._halt.wait(self._backoff.pause_s(is_fatal=self._fatal))

    def _enter(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self._since = time.time()
            self._states.post(self.service.name, state)
