"""Benchmarks, each beside a peer or beside itself without the trouble: `./relais bench NAME`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.bench.progress import Say

    Measure = Callable[["Options", Say], dict[str, Any]]

NAMES = ("jobs", "intake", "claim", "fair", "horizon", "upgrade")


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes of a run; the defaults are the ones whose figures count."""

    minutes: float = 10.0  # horizon: how long each of its two halves lasts
    rate: int = 1_000  # horizon: jobs per second
    batch: int = 1  # horizon: jobs per POST
    flood: int = 1_000_000  # fair: jobs of the tenant that floods
    jobs: int = 1_000_000  # upgrade: jobs in the ledger
    gateways: int = 1  # intake: processes of the gateway


def run(name: str, *, as_json: bool, options: Options | None = None) -> int:
    """Run the benchmark `name`; raises UsageError where there is none of that name."""
    if name not in NAMES:
        message = f"There is no benchmark {name!r}."
        raise UsageError(message, remedy=f"There are: {', '.join(NAMES)}.")
    # Not before it is clear what to run: a wrong name is answered at once.
    from lab.bench.progress import telling  # noqa: PLC0415

    measure: Measure = import_module(f"lab.bench.{name}").measure
    with telling(is_silent=as_json) as say:
        measured = measure(options or Options(), say)
    if as_json:
        print(json.dumps(measured))
    else:
        from lab.bench.page import show  # noqa: PLC0415 - rich is not needed for JSON

        show(measured)
    return 0
