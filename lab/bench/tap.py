"""Inside a worker under test: each claim's duration, not only the bucket that it falls into.

Loaded beside the kinds (`RELAIS_KINDS`). What is written down is what the worker itself reports
as `relais_claim_seconds`: from asking for a connection to the answer of the COMMIT, the look
round the lanes and what came due included.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runtime import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "RELAIS_BENCH_CLAIMS"


class Claim(NamedTuple):
    """One claim that brought jobs."""

    at: float  # wall clock
    seconds: float
    jobs: int


def read(path: Path) -> list[Claim]:
    """The claims written down so far."""
    return list(_parsed(path.read_text())) if path.exists() else []


def _parsed(lines: str) -> Iterator[Claim]:
    for line in lines.splitlines():
        at, seconds, jobs = line.split()
        yield Claim(float(at), float(seconds), int(jobs))


def _install(path: Path) -> None:
    report = metrics.claimed
    output = path.open("a", buffering=1)

    def claimed(*, seconds: float, jobs: int) -> None:
        output.write(f"{time.time():.3f} {seconds:.6f} {jobs}\n")
        report(seconds=seconds, jobs=jobs)

    metrics.claimed = claimed


if VARIABLE in os.environ:
    _install(Path(os.environ[VARIABLE]))
