"""`relais status`: what is running, since when, how often it was restarted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ops.cli.options import AsJson, Colour, DataDir

if TYPE_CHECKING:
    from ops.stack import Layout

_MEBIBYTE = 1024 * 1024


def status(*, colour: Colour = None, data_dir: DataDir = None, as_json: AsJson = False) -> int:
    """Show every service: state, pid, uptime, restarts, memory, address.

    Exit code 2 where a setting, or a service that you run yourself, is wrong.
    """
    import json
    import sys

    from ops.cli import screen
    from ops.stack import find, own_services, report

    place = find(data_dir, colour)
    seen = report.make(place)
    found = own_services.of_stack(place, seen)
    if as_json:
        print(json.dumps(seen, indent=2))
    else:
        _show(place, seen)
    for finding in found:
        print(screen.visible(str(finding)), file=sys.stderr)
    return 2 if any(not own_services.is_bearable(finding) for finding in found) else 0


def _show(place: Layout, seen: dict[str, Any]) -> None:
    from ops.cli import screen, table
    from ops.stack import report

    console = screen.console()
    if seen["stack"] == report.DOWN:
        how = place.command("up")
        console.print(f"{place.colour} is down. Start it: {how}", soft_wrap=True)
        return
    screen.show(console, table.of(seen["services"]))
    if seen["stack"] == report.ORPHANED:
        over, end = place.command("up"), place.command("down")
        console.print(
            f"Its supervisor is gone. {over} takes these over, {end} stops them.", soft_wrap=True
        )
        return
    others = "; ".join(
        f"{name}: pid {one['pid']}, {table.uptime(one['uptime_s'])}, "
        f"{table.memory(one.get('pss_mb', one['rss_mb']))}"
        for name in ("supervisor", "fork_server")
        if (one := seen[name])
    )
    console.print(
        f"{place.colour} is {'up' if seen['ready'] else 'not ready'}; "
        f"{others.replace('_', ' ')}; "
        f"together {table.memory(seen['memory_bytes'] / _MEBIBYTE)}; data: {place.data_dir}",
        soft_wrap=True,
    )
