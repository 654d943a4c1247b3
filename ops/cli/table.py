"""The services as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from ops.cli import screen

if TYPE_CHECKING:
    from collections.abc import Iterable

_STYLES = {
    "healthy": "green",
    "done": "green",
    "waiting": "dim",
    "starting": "cyan",
    "unhealthy": "bold red",
    "restarting": "bold yellow",
    "orphaned": "bold yellow",
}


def of(services: Iterable[dict[str, Any]], *, title: str = "") -> Table:
    """One row per service: name, state, address, what happened to it."""
    # Fits 80 columns: empty columns are left out.
    table = Table(
        box=box.SIMPLE_HEAD,
        title=title or None,
        title_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    rows = list(services)
    for name in ("service", "state"):
        table.add_column(name, no_wrap=True)
    restarts = ["restarts"] if any(one["restarts"] for one in rows) else []
    for name in ("pid", "uptime", *restarts, "PSS", "RSS"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("address", overflow="fold")
    has_notes = any(_note(one) for one in rows)
    if has_notes:
        table.add_column("note", overflow="fold")
    for one in rows:
        state = one["state"]
        table.add_row(
            one["name"],
            Text(state, style=_STYLES.get(state, "")),
            str(one["pid"] or ""),
            uptime(one.get("uptime_s")),
            *(str(one["restarts"] or "") for _ in restarts),
            memory(one.get("pss_mb")),
            memory(one.get("rss_mb")),
            (one.get("address") or "").replace(", ", "\n"),
            *([Text(screen.visible(_note(one)))] if has_notes else []),
        )
    return table


def uptime(seconds: float | None) -> str:
    """`42s`, `3m05s`, `2h07m`, `4d02h`; empty where unknown."""
    if seconds is None:
        return ""
    whole = int(seconds)
    for unit, length, smaller, part in (("d", 86_400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= length:
            return f"{whole // length}{unit}{whole % length // part:02}{smaller}"
    return f"{whole // 60}m{whole % 60:02}s" if whole >= 60 else f"{whole}s"


def memory(size_mb: float | None) -> str:
    """Whole mebibytes; empty where unknown."""
    return "" if size_mb is None else f"{size_mb:.0f} MB"


def _note(one: dict[str, Any]) -> str:
    kept = {"other": "run by the other colour", "outside": "yours, only checked"}
    parts = [kept.get(one.get("kept", ""), "")]
    if one.get("last_exit") and one["state"] != "done":
        parts.append(f"last ended with {one['last_exit']}")
    if one.get("reason") and one["state"] not in {"healthy", "done"}:
        parts.append(one["reason"])
    return "; ".join(filter(None, parts))
