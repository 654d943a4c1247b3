"""Benchmarks, each beside a peer in the same run: `./relais bench NAME`."""

from __future__ import annotations

import json
import sys
from importlib import import_module
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
    measure: Callable[[], dict[str, Any]] = import_module(f"ops.bench.{name}").measure
    return measure
