"""Faults of the receiver of callbacks."""

from __future__ import annotations

from typing import ClassVar

from lab.chaos.faults.fault import Fault, Unreachable
from lab.chaos.recorders import behaviour


class OnReceiver(Fault):
    """The recorder does `mode` to a `share` of what comes."""

    service: ClassVar[str] = "callback"
    mode: ClassVar[str] = ""
    share: ClassVar[float] = 0.7
    seconds: ClassVar[float] = 0.0
    lasts_s: ClassVar[tuple[float, float]] = (4.0, 7.0)

    async def inject(self) -> None:
        """Tell it."""
        await behaviour.order(
            self.cluster.callback_control, self.mode, share=self.share, seconds=self.seconds
        )

    async def heal(self) -> None:
        """Tell it to behave."""
        report = await behaviour.order(self.cluster.callback_control)
        self.is_met = report["hits"] > 0


class Broken(OnReceiver):
    """500."""

    kind, mode = "callback_500", "500"


class Hangs(OnReceiver):
    """It takes the request and says nothing for a while, then hangs up."""

    kind, mode, seconds = "callback_hangs", "hang", 6.0


class RedirectsInward(OnReceiver):
    """302 to an address inside, where nobody may go."""

    kind, mode = "callback_redirects_inward", "redirect"


class Gone(Unreachable):
    """Connections are cut and refused."""

    kind, service, lasts_s = "callback_unreachable", "callback", (3.0, 6.0)
    proxy = "callback"


ALL: tuple[type[Fault], ...] = (Broken, Hangs, RedirectsInward, Gone)
