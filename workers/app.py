"""The Celery app of the workers: its consumer hears doorbells, and nothing else.

The engine, started as a bootstep of the worker, does the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import bootsteps

from doorbell.broker import celery_app
from doorbell.ringer import Ringer
from ledger.presence import Presence
from runtime import settings as runtime_settings
from tasks import kinds
from workers.consumer import PatientConsumer
from workers.engine import Engine
from workers.events import TaskEvents

if TYPE_CHECKING:
    from celery import Celery
    from celery.apps.worker import Worker

    from ledger.presence import Fence


class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the engine before the consumer, so that a dead Redis does not keep jobs waiting."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Worker, **options: object) -> None:
        super().__init__(parent, **options)
        self._engine: Engine | None = None
        self._presence: Presence | None = None
        self._ringer: Ringer | None = None
        self._events: TaskEvents | None = None

    def start(self, parent: Worker) -> None:
        """Sign on, then claim."""
        settings = runtime_settings.load()
        queue = next(iter(parent.app.amqp.queues.consume_from))
        self._ringer = Ringer(settings, app=parent.app)
        if settings.task_events:
            self._events = TaskEvents(parent.app, hostname=parent.hostname)
        self._presence = Presence(
            settings,
            queue=queue,
            kinds=sorted(kinds.load(settings.kinds)),
            held=self._held,
            on_cancel=self._cancel,
        )
        # Without Postgres there is nothing to do; the thread keeps trying.
        self._presence.start(timeout_s=5)
        self._engine = Engine(
            settings,
            queue=queue,
            presence=self._presence,
            ringer=self._ringer,
            events=self._events,
        )
        self._engine.start()
        parent.engine = self._engine  # for the consumer

    def stop(self, parent: Worker) -> None:
        """SIGTERM: stop claiming, let running jobs finish within the grace, give the rest back."""
        self._end(parent, grace_s=None)

    def terminate(self, parent: Worker) -> None:
        """SIGQUIT: give everything back at once."""
        self._end(parent, grace_s=0.0)

    def _held(self) -> list[Fence] | None:
        return self._engine.held() if self._engine is not None else []

    def _cancel(self, fences: list[Fence]) -> None:
        if self._engine is not None:
            self._engine.cancel(fences)

    def _end(self, _parent: Worker, *, grace_s: float | None) -> None:
        if self._engine is not None:
            self._engine.stop(grace_s=grace_s)
            self._engine = None
        if self._presence is not None:
            self._presence.stop()
        if self._events is not None:
            self._events.close()
        if self._ringer is not None:
            self._ringer.close()


def build(settings: runtime_settings.Settings) -> Celery:
    """The app of a worker, which has no tasks: kinds belong to the engine."""
    app = celery_app(settings)
    app.conf.worker_consumer = f"{PatientConsumer.__module__}:{PatientConsumer.__name__}"
    app.steps["worker"].add(EngineStep)
    return app
