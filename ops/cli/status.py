"""`relais status`: what runs, since when, how often it had to be restarted."""

from __future__ import annotations

from ops.cli.options import AsJson, Colour, DataDir


def status(*, colour: Colour = None, data_dir: DataDir = None, as_json: AsJson = False) -> int:
    """Show every service: state, pid, uptime, restarts, memory, address."""
    import json

    from ops.stack import find, report

    place = find(data_dir, colour)
    seen = report.make(place)
    if as_json:
        print(json.dumps(seen, indent=2))
        return 0

    from ops.cli import screen, table

    console = screen.console()
    if seen["stack"] == report.DOWN:
        console.print(f"{place.colour} is down. Start it: ./relais up", soft_wrap=True)
        return 0
    console.print(table.of(seen["services"]))
    if seen["stack"] == report.ORPHANED:
        console.print(
            "Its supervisor is gone. ./relais up takes these over, ./relais down ends them."
        )
        return 0
    supervisor = seen["supervisor"] or {}
    console.print(
        f"{place.colour} is {'up' if seen['ready'] else 'not ready'}; supervisor: "
        f"pid {supervisor.get('pid')}, {table.uptime(supervisor.get('uptime_s'))}, "
        f"{table.memory(supervisor.get('memory_bytes'))}; "
        f"together {table.memory(seen['memory_bytes'])}; data: {place.data_dir}",
        soft_wrap=True,
    )
    return 0
