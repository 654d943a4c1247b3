"""`relais doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ops.cli.options import AsJson, Colour, DataDir, PortBase

if TYPE_CHECKING:
    from ops.stack.checks import Check


def doctor(
    *,
    colour: Colour = None,
    data_dir: DataDir = None,
    port_base: PortBase = None,
    as_json: AsJson = False,
) -> int:
    """Check this machine and the stack; exit code 1 if something is wrong, 2 if it is a setting."""
    from ops.stack import checks, find

    found = list(checks.run_all(find(data_dir, colour, port_base)))
    well = all(check.ok for check in found)
    code = 2 if any(check.is_input for check in found) else 0 if well else 1
    if as_json:
        print(
            json.dumps(
                {"ok": well, "checks": [_as_json(check) for check in found]},
                indent=2,
            )
        )
        return code

    from rich import box
    from rich.table import Table
    from rich.text import Text

    from ops.cli import screen

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("check", "", "found", "what to do"):
        table.add_column(name, overflow="fold")
    for check in found:
        mark = Text("ok", style="green") if check.ok else Text("wrong", style="bold red")
        table.add_row(
            check.name, mark, *(Text(screen.visible(text)) for text in (check.found, check.remedy))
        )
    console = screen.console()
    console.print(table)
    console.print("Everything is fine." if well else "Something is wrong.")
    return code


def _as_json(check: Check) -> dict[str, Any]:
    return {"name": check.name, "found": check.found, "remedy": check.remedy, "ok": check.ok}
