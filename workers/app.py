"""The Celery app of the workers: one task per kind, each no more than a bell button.

`task_id` is the job's id, so a row in Flower is a row in the ledger. The engine, started as a
bootstep of the worker, does the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import bootsteps, signals

from ledger.presence import Presence
from runtime import settings as runtime_settings
from tasks import kinds
from workers.broker import celery_app
from workers.consumer import PatientConsumer
from workers.doorbell import Ringer
from workers.engine import Engine
from workers.events import TaskEvents

if TYPE_CHECKING:
    from celery import Celery
    from celery.apps.worker import Worker

    from ledger.presence import Fence

_engines: list[Engine] = []


def wake(*_: object) -> None:
    """What every doorbell does: the ledger says what there is to do."""
    for engine in _engines:
        engine.wake()


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
        _engines.append(self._engine)

    def stop(self, parent: Worker) -> None:
        """SIGTERM: stop claiming, finish what runs within the grace, give the rest back."""
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
            _engines.clear()
            self._engine = None
        if self._presence is not None:
            self._presence.stop()
        if self._events is not None:
            self._events.close()
        if self._ringer is not None:
            self._ringer.close()


def build(settings: runtime_settings.Settings) -> Celery:
    """The app with a task for every kind that this process knows."""
    app = celery_app(settings)
    app.conf.worker_consumer = f"{PatientConsumer.__module__}:{PatientConsumer.__name__}"
    for name in kinds.load(settings.kinds):
        app.task(wake, name=name, ignore_result=True, send_events=False, shared=False)
    for name in ("celery.map", "celery.starmap", "celery.chain", "celery.group", "celery.chord"):
        # Nothing of ours uses them, and whoever can write to Redis could.
        signals.import_modules.connect(
            lambda sender, name=name, **_: sender.tasks.pop(name, None), sender=app, weak=False
        )
    app.steps["worker"].add(EngineStep)
    return app
