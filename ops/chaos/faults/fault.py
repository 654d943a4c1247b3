"""What a fault is: something with a name that goes wrong for a while and is put right again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import random

    from ops.chaos.load import Load
    from ops.chaos.stand import Stand

HOOK_WITHIN_S = 12.0  # a moment that does not come by then is not met this time


@dataclass(slots=True)
class Scene:
    """What a fault may act on."""

    stand: Stand
    load: Load
    rng: random.Random


class Fault:
    """One way to go wrong. `service`: two faults of one service are never there at once."""

    kind: ClassVar[str] = ""
    service: ClassVar[str] = ""
    lasts_s: ClassVar[tuple[float, float]] = (3.0, 6.0)

    def __init__(self, scene: Scene) -> None:
        self.stand = scene.stand
        self.load = scene.load
        self.rng = scene.rng
        self.is_met = True  # False: what it waited for did not come by

    def missing(self) -> str:
        """What this machine lacks for it; empty: nothing."""
        return ""

    async def inject(self) -> None:
        """Make it go wrong."""
        raise NotImplementedError

    async def last(self) -> None:
        """Let it go on for a while."""
        await asyncio.sleep(self.rng.uniform(*self.lasts_s))

    async def heal(self) -> None:
        """Put it right, whatever state it is in."""
