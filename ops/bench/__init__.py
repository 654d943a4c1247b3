"""Benchmarks, each beside a peer in the same run: `./relais bench NAME`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("jobs", "intake", "claim")


def run(name: str, *, as_json: bool) -> int:
    """Run the benchmark `name`; 2 where there is none of that name."""
    if name not in NAMES:
        print(f"There is no benchmark {name!r}. There are: {', '.join(NAMES)}.", file=sys.stderr)
        return 2
    measured = _load(name)()
    if as_json:
        print(json.dumps(measured))
    else:
        from ops.bench.page import show  # noqa: PLC0415 - rich is not needed for JSON

        show(measured)
    return 0


def _load(name: str) -> Callable[[], dict[str, Any]]:
    from ops.bench import claim, intake, jobs  # noqa: PLC0415 - heavy, and only for this command

    return {"jobs": jobs.measure, "intake": intake.measure, "claim": claim.measure}[name]
