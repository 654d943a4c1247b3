"""All faults by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.chaos.faults import (
    callbacks,
    hooks,
    neighbours,
    outcomes,
    postgres,
    presence,
    processes,
    redis,
    shapes,
    smtp,
)
from ops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.chaos.faults.fault import Fault

MODULES = (
    hooks,
    processes,
    presence,
    postgres,
    redis,
    smtp,
    callbacks,
    outcomes,
    shapes,
    neighbours,
)
FAULTS: dict[str, type[Fault]] = {fault.kind: fault for module in MODULES for fault in module.ALL}


def chosen(names: Sequence[str]) -> list[type[Fault]]:
    """The faults called so; all where none is named. Raises UsageError for an unknown name."""
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        sentence = f"There is no fault {unknown[0]!r}."
        raise UsageError(sentence, remedy=f"There are: {', '.join(sorted(FAULTS))}.")
    return [FAULTS[name] for name in names] if names else list(FAULTS.values())
