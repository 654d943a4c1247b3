"""What a fault is: something with a name that goes wrong for a while and is put right again."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import random

    from lab.chaos.client import Client
    from lab.chaos.cluster import Cluster
    from lab.chaos.proxy import Deed, Proxy

HOOK_WITHIN_S = 12.0  # a moment that does not come by then is not met this time


@dataclass(slots=True)
class Scene:
    """What a fault may act on."""

    cluster: Cluster
    client: Client
    rng: random.Random


class Fault:
    """One way to go wrong. `service`: two faults of one service are never there at once."""

    kind: ClassVar[str] = ""
    service: ClassVar[str] = ""
    lasts_s: ClassVar[tuple[float, float]] = (3.0, 6.0)
    is_alone: ClassVar[bool] = False  # it bounds how long others wait: nothing else goes wrong
    has_jobs: ClassVar[bool] = False  # hands over jobs of its own

    def __init__(self, scene: Scene) -> None:
        self.cluster = scene.cluster
        self.client = scene.client
        self.rng = scene.rng
        self.is_met = False  # whether it was seen to hurt what it aims at

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


class Evidence:
    """What a proxy has done to its connections, and which of them ended, since this was made."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._before = Counter(proxy.tally)
        self._links = set(proxy.links)

    def of(self, *deeds: Deed) -> bool:
        """Whether it did any of these."""
        return any(self._proxy.tally[deed] > self._before[deed] for deed in deeds)

    @property
    def has_lost_links(self) -> bool:
        """Whether a connection that was there is not any more."""
        return not self._links <= self._proxy.links


class OnProxy(Fault):
    """The way to a service is in trouble; met where the proxy did one of `deeds` to somebody."""

    proxy: ClassVar[str] = ""
    deeds: ClassVar[tuple[Deed, ...]] = ()
    evidence: Evidence | None = None

    @property
    def way(self) -> Proxy:
        """The proxy."""
        found: Proxy = getattr(self.cluster, f"{self.proxy}_proxy")
        return found

    async def inject(self) -> None:
        """Make it go wrong, and look from now on whom it hurts."""
        self.evidence = Evidence(self.way)
        self.disturb()

    async def heal(self) -> None:
        """Put it right."""
        if self.evidence is not None:
            self.is_met = self.evidence.of(*self.deeds)
        self.relieve()

    def disturb(self) -> None:
        """What goes wrong."""
        raise NotImplementedError

    def relieve(self) -> None:
        """And the end of it."""
        raise NotImplementedError


class Unreachable(OnProxy):
    """Connections are cut and refused."""

    deeds: ClassVar[tuple[Deed, ...]] = ("refused",)

    def disturb(self) -> None:
        """Cut and refuse."""
        self.way.refuse()

    def relieve(self) -> None:
        """Let through again."""
        self.way.is_refusing = False


class HalfOpen(OnProxy):
    """Connections stay open and nothing comes through."""

    deeds: ClassVar[tuple[Deed, ...]] = ("swallowed",)

    def disturb(self) -> None:
        """Swallow."""
        self.way.is_swallowing = True

    def relieve(self) -> None:
        """Cut what swallowed."""
        self.way.stop_swallowing()
