"""An engine in this process, with a real ledger and nobody to ring for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

from ledger.presence import Presence
from tests import scripted_kind
from tests.workers import odd_kind
from workers.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from doorbell.ringer import Ringer
    from runtime.settings import Settings

KINDS = (scripted_kind.__name__, odd_kind.__name__)


class Silence:
    """Takes every ring and wakes nobody."""

    def ring(self, **_: object) -> None:
        """Nothing."""


class RunningEngine:
    """Presence and engine of one queue, as `workers.app` makes them; ended with the block."""

    def __init__(
        self,
        settings: Settings,
        queue: str = "template",
        *,
        presence: Callable[..., Presence] = Presence,
        **changed: object,
    ) -> None:
        self.settings = settings.model_copy(update={"kinds": KINDS, "poll_s": 0.2, **changed})
        self._engine: Engine | None = None
        self.presence = presence(
            self.settings, queue=queue, kinds=KINDS, held=self._held, on_cancel=self._cancel
        )
        self._queue = queue

    def __enter__(self) -> Self:
        self.presence.start(timeout_s=5)
        self._engine = Engine(
            self.settings,
            queue=self._queue,
            presence=self.presence,
            ringer=cast("Ringer", Silence()),
        )
        self._engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.stop(grace_s=0.0)
        self.presence.stop()

    @property
    def engine(self) -> Engine:
        """It runs in a thread of its own."""
        assert self._engine is not None
        return self._engine

    def _held(self) -> Any:
        return self._engine.held() if self._engine is not None else []

    def _cancel(self, fences: Any) -> None:
        if self._engine is not None:
            self._engine.cancel(fences)
