"""What differs between two versions of a template, part by part, as a unified diff."""

from __future__ import annotations

import difflib
from typing import Any

CONTEXT_LINES = 3


def differences(arguments: dict[str, Any]) -> dict[str, Any]:
    """`{"before": {part: text}, "after": {...}}` to `{part: diff}` with the parts that differ.

    A part that one side lacks is empty there. Runs in an isolated process: what is compared is
    strangers', and can make it take long.
    """
    before: dict[str, str] = arguments["before"]
    after: dict[str, str] = arguments["after"]
    return {
        part: _diff(before.get(part, ""), after.get(part, ""))
        for part in [*before, *(part for part in after if part not in before)]
        if before.get(part) != after.get(part)
    }


def _diff(before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), n=CONTEXT_LINES, lineterm=""
    )
    return "\n".join(list(lines)[2:])  # without the names of files, of which there are none
