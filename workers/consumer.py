"""Celery's consumer, which only listens for doorbells here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

if TYPE_CHECKING:
    from collections.abc import Callable

WELL_AFTER_S = 5.0  # a connection that lasts this long was healthy
PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 8.0
SIGNAL_WITHIN_S = 0.2


class PatientConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Wakes the engine at every doorbell, whatever it says.

    Connects again at once after a connection that was well, ever later where none lasts.

    Celery's own waits between tries to connect, but not where a Redis lets everybody in and then
    refuses what they ask for: it would ask, and log, several times a second for ever.
    """

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - Celery's own
        self._connected_at: float | None = (
            None  # monotonic; None: the last attempt got no connection
        )
        self._pause_s = 0.0
        super().__init__(*args, **options)

    def connect(self) -> Any:  # noqa: ANN401 - Kombu's
        """A connection to the broker; a signal ends the wait for it."""
        now = time.monotonic()
        if self._connected_at is not None and now - self._connected_at > WELL_AFTER_S:
            self._pause_s = 0.0
        self._connected_at = None
        until = now + self._pause_s
        while (left_s := until - time.monotonic()) > 0:
            maybe_shutdown()
            time.sleep(min(left_s, SIGNAL_WITHIN_S))
        self._pause_s = min(max(PAUSE_FIRST_S, 2 * self._pause_s), PAUSE_MAX_S)
        connection = super().connect()
        self._connected_at = time.monotonic()
        return connection

    def create_task_handler(self, *_: object, **__: object) -> Callable[[object], None]:
        """Listens for doorbells, in place of Celery's own, which would run what they say."""
        engine = self.controller.engine

        def wake(_doorbell: object) -> None:
            engine.wake()

        return wake
