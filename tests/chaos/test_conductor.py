"""Every fault that was planned has its turn, and one that hurt nobody is told."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from lab.chaos import conductor as module
from lab.chaos.conductor import Conductor
from lab.chaos.faults.fault import Fault, Scene
from lab.chaos.journal import Journal


class Noted(Fault):
    """Counts how often it was played, and who was there meanwhile."""

    lasts_s = (0.01, 0.02)
    meets_at: ClassVar[int] = 1  # 0: never
    played: ClassVar[list[str]] = []
    there: ClassVar[set[str]] = set()
    beside: ClassVar[dict[str, set[str]]] = {}

    async def inject(self) -> None:
        self.played.append(self.kind)
        self.there.add(self.kind)
        for kind in self.there:
            self.beside.setdefault(kind, set()).update(self.there)
        self.is_met = self.played.count(self.kind) == self.meets_at

    async def heal(self) -> None:
        self.there.discard(self.kind)


def fault(kind: str, service: str = "", **fields: Any) -> type[Fault]:
    return type(kind, (Noted,), {"kind": kind, "service": service or kind, **fields})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GAP_S", (0.0, 0.01))
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.01)
    for name, fresh in (("played", []), ("there", set()), ("beside", {})):
        monkeypatch.setattr(Noted, name, fresh)


async def played(
    folder: Path, *kinds: type[Fault], for_s: float = 0.0, at_most_s: float = 10.0
) -> Conductor:
    settled: list[int] = []

    async def settle() -> None:
        settled.append(len(Noted.there))

    made = Conductor(
        Scene(cast("Any", None), cast("Any", None), random.Random(1)),
        kinds,
        journal=Journal(folder / "faults.jsonl"),
        rng=random.Random(1),
        settle=settle,
    )
    now = time.monotonic()
    await made.run(until=now + for_s, at_most=now + at_most_s)
    assert not any(settled)
    return made


async def test_every_kind_has_its_turn_though_the_time_is_over(tmp_path: Path) -> None:
    kinds = [fault(f"fault_{number}") for number in range(7)]
    made = await played(tmp_path, *kinds)
    assert sorted(Noted.played) == [kind.kind for kind in kinds]
    assert made.not_met == []


async def test_one_that_hurt_nobody_is_played_again_and_then_told(tmp_path: Path) -> None:
    kinds = (fault("never", meets_at=0), fault("late", meets_at=2), fault("well"))
    made = await played(tmp_path, *kinds)
    assert Noted.played.count("never") == module.TRIES
    assert Noted.played.count("late") == 2
    assert made.not_met == ["never"]
    assert {struck.kind for struck in made.struck if struck.is_met} == {"late", "well"}


async def test_there_is_an_end_to_it(tmp_path: Path) -> None:
    made = await played(tmp_path, fault("one"), fault("two"), at_most_s=0.0)
    assert made.not_met == ["one", "two"]


async def test_one_with_time_left_is_played_over_and_over(tmp_path: Path) -> None:
    await played(tmp_path, fault("only"), for_s=0.5)
    assert len(Noted.played) > 3


async def test_those_that_bound_a_wait_are_alone_and_of_one_service_only_one_is_there(
    tmp_path: Path,
) -> None:
    kinds = [fault(f"alone_{number}", is_alone=True) for number in range(2)]
    kinds += [fault(f"same_{number}", "same") for number in range(3)]
    kinds += [fault(f"other_{number}", "other") for number in range(3)]
    kinds += [fault(f"asks_{number}", "load") for number in range(3)]
    await played(tmp_path, *kinds, for_s=0.5)
    for kind in kinds:
        meanwhile = Noted.beside[kind.kind] - {kind.kind}
        of_service = {other.kind for other in kinds if other.service == kind.service}
        assert not meanwhile & of_service
        assert not (kind.is_alone and meanwhile)


async def test_what_the_machine_lacks_is_skipped_and_not_asked_for(tmp_path: Path) -> None:
    lacking = fault("lacking", missing=lambda _: "a moon")
    made = await played(tmp_path, lacking, fault("well"))
    assert made.skipped == {"lacking": "a moon"}
    assert made.not_met == []
