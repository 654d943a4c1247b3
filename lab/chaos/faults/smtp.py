"""Faults of the relay that mail is sent through."""

from __future__ import annotations

from typing import ClassVar

from lab.chaos.configuration import DOT_TIMEOUT_S
from lab.chaos.faults.fault import Fault, Unreachable
from lab.chaos.recorders import behaviour


class OnRelay(Fault):
    """The recorder does `mode` to a `share` of what comes."""

    service: ClassVar[str] = "smtp"
    mode: ClassVar[str] = ""
    share: ClassVar[float] = 0.5
    seconds: ClassVar[float] = 0.0
    lasts_s: ClassVar[tuple[float, float]] = (4.0, 7.0)

    async def inject(self) -> None:
        """Tell it."""
        await behaviour.order(
            self.cluster.smtp_control, self.mode, share=self.share, seconds=self.seconds
        )

    async def heal(self) -> None:
        """Tell it to behave."""
        report = await behaviour.order(self.cluster.smtp_control)
        self.is_met = report["hits"] > 0


class DropsAfterTaking(OnRelay):
    """It has the message and hangs up without a word."""

    kind, mode = "smtp_drops_after_taking", "drop after taking"


class DropsBeforeTaking(OnRelay):
    """It hangs up after the dot and has nothing."""

    kind, mode = "smtp_drops_before_taking", "drop before taking"


class Late(OnRelay):
    """Its 250 comes late, and in time."""

    kind, mode, seconds = "smtp_late_250", "late", DOT_TIMEOUT_S * 0.6


class TooLate(OnRelay):
    """Its 250 comes when nobody waits for it any more."""

    kind, mode, seconds, share = "smtp_250_after_timeout", "late", DOT_TIMEOUT_S + 1.5, 0.2


class Crawls(OnRelay):
    """One byte at a time."""

    kind, mode, seconds, share = "smtp_crawls", "crawl", 0.15, 0.3


class Busy(OnRelay):
    """421 at the door."""

    kind, mode = "smtp_421", "421"


class PutsOff(OnRelay):
    """451 to the dot."""

    kind, mode = "smtp_451", "451"


class Greylists(OnRelay):
    """450 4.7.1 to whom it has not seen yet."""

    kind, mode = "smtp_450_greylisting", "450"


class Refuses(OnRelay):
    """550 to some recipients, of one mail too."""

    kind, mode, share = "smtp_550", "550", 0.3


class RefusesLogin(OnRelay):
    """535: the relay is stopped until a person resumes it."""

    kind, mode, share = "smtp_535", "535", 1.0

    async def heal(self) -> None:
        """Put the login right and resume."""
        await super().heal()
        await self.resume()

    async def resume(self) -> None:
        """As an operator would, until a gateway has done it."""
        await self.client.operate("/api/v1/relays/members/resume")


class Gone(Unreachable):
    """Connections are cut and refused."""

    kind, service, lasts_s = "smtp_unreachable", "smtp", (3.0, 6.0)
    proxy = "smtp"


ALL: tuple[type[Fault], ...] = (
    DropsAfterTaking,
    DropsBeforeTaking,
    Late,
    TooLate,
    Crawls,
    Busy,
    PutsOff,
    Greylists,
    Refuses,
    RefusesLogin,
    Gone,
)
