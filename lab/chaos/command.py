"""`relais chaos`: runs a plan, shows how it goes, prints what was found, keeps what failed."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.chaos import control, play, screen
from lab.chaos.checker import PROMISES
from lab.chaos.faults import registry
from ops.stack import layout

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path

    from lab.chaos.play import Plan, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line said."""

    seed: int
    minutes: float
    faults: Sequence[str]
    as_json: bool
    is_control: bool
    is_kept: bool  # the history of a run that held as well
    data_dir: Path | None


def run(asked: Asked) -> int:
    """Play it; 0 where every promise was kept (by Relais: the control only shows its figures)."""
    faults = registry.chosen(asked.faults)
    folder = layout.find(asked.data_dir, None, None).data_dir / "chaos"
    history = folder / f"seed-{asked.seed}-{time.strftime('%Y%m%dT%H%M%S')}"
    history.mkdir(parents=True)
    plan = play.Plan(seed=asked.seed, minutes=asked.minutes, faults=faults, history=history)
    player = control.play if asked.is_control else play.play
    watching = nullcontext(lambda _: None) if asked.as_json else screen.watching()
    with watching as tell:
        found = asyncio.run(_stoppable(player, plan, tell))
    holds = not any(found.get(name) for name in (*PROMISES, "kinds_not_met"))
    if asked.as_json:
        print(json.dumps(found))
    else:
        screen.show(found, is_kept=None if asked.is_control else holds)
    is_fine = asked.is_control or holds
    if is_fine and not asked.is_kept:
        shutil.rmtree(history, ignore_errors=True)
        return 0
    (history / "report.json").write_text(json.dumps(found, indent=1))
    if is_fine:
        print(f"History: {history}", file=sys.stderr)
        return 0
    again = f"./relais chaos --seed {asked.seed} --minutes {asked.minutes:g}"
    if asked.faults:
        again += f" --faults {','.join(asked.faults)}"
    if found.get("kinds_not_met"):
        print(f"Never met: {', '.join(found['kinds_not_met'])}.", file=sys.stderr)
    why = "A promise was broken, or a fault not met."
    print(f"{why} Its history: {history}\nAgain: {again}", file=sys.stderr)
    return 1


async def _stoppable(
    player: Callable[..., Coroutine[Any, Any, dict[str, Any]]],
    plan: Plan,
    tell: Callable[[Progress], None],
) -> dict[str, Any]:
    """SIGTERM is taken like Ctrl-C: everything that was started is ended first."""
    task = asyncio.create_task(player(plan, tell=tell))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
