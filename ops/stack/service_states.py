"""The states of all services, for those who wait for one another."""

from __future__ import annotations

import threading

from ops.stack.service import READY, State


class ServiceStates:
    """One state per service, posted by its monitor."""

    def __init__(self) -> None:
        """Empty; every monitor posts its own."""
        self._states: dict[str, State] = {}
        self._changed = threading.Condition()

    def post(self, name: str, state: State) -> None:
        """Set one service's state and wake who waits."""
        with self._changed:
            self._states[name] = state
            self._changed.notify_all()

    def ready(self, names: tuple[str, ...]) -> bool:
        """Whether all of these are; a service that was left out does not count."""
        return all(self._states.get(name, State.DONE) in READY for name in names)

    def wait_ready(self, names: tuple[str, ...], timeout_s: float) -> bool:
        """Wait at most this long; whether all are ready."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ready(names), timeout_s)
