"""What `status` says: what the supervisor knows, and what only the moment tells."""

from __future__ import annotations

import time
from typing import Any

from ops.stack import control, documents, own_services, processes
from ops.stack.layout import Layout
from ops.stack.processes import Identity

DOWN, ORPHANED = "down", "orphaned"


def make(place: Layout) -> dict[str, Any]:
    """One JSON object: `stack` (running, orphaned or down), `ready`, `urls`, `services`, ..."""
    content: dict[str, Any] = {
        "stack": DOWN,
        "ready": False,
        "colour": place.colour,
        "data_dir": str(place.data_dir),
        "supervisor": None,
        "fork_server": None,
        "memory_bytes": None,
        "urls": {},
        "services": [],
    }
    if control.is_running(place):
        seen = control.state(place) or {"ready": False, "services": []}
        content |= {
            "stack": own_services.RUNNING,
            "ready": seen["ready"],
            "supervisor": _alone(documents.read(place.supervisor)),
            "fork_server": _alone(seen.get("fork_server")),
            "urls": urls(seen["services"]),
            "services": [_service(one) for one in seen["services"]],
        }
    elif place.run.exists() and (left := control.leftovers(place)):
        content["stack"] = ORPHANED
        content["services"] = [
            _service(
                {
                    "name": record.name,
                    "state": ORPHANED,
                    "pid": record.identity.pid,
                    "started": record.identity.started,
                    "restarts": record.restarts,
                }
            )
            for record in left
        ]
    alone = (content["supervisor"], content["fork_server"])
    parts = [*content["services"], *filter(None, alone)]
    content["memory_bytes"] = sum(part["memory_bytes"] or 0 for part in parts)
    return content


def urls(services: list[dict[str, Any]]) -> dict[str, str]:
    """Addresses that a person or a program may open, by service."""
    found: dict[str, str] = {}
    for one in services:
        for address in (one["address"] or "").split(", "):
            if address.startswith("http://"):
                found[one["name"]] = address
            elif address.startswith("smtp "):
                found["smtp"] = address.removeprefix("smtp ")
    return found


def _alone(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """A process without those that it has started."""
    if found is None:
        return None
    return {"pid": found["pid"], **_measured(Identity(found["pid"], found["started"]), alone=True)}


def _service(seen: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in seen.items() if name not in {"started", "failures"}}
    measured: dict[str, Any] = {"uptime_s": None, "memory_bytes": None, "rss_mb": None}
    if seen["pid"] is not None:
        measured = _measured(Identity(seen["pid"], seen["started"]), alone=False)
    elif seen.get("kept") in {"other", "outside"}:
        measured["uptime_s"] = round(time.time() - seen["since"], 1)
    return {**shown, **measured}


def _measured(identity: Identity, *, alone: bool) -> dict[str, Any]:
    uptime_s = identity.uptime_s()
    if uptime_s is None:
        return {"uptime_s": None, "memory_bytes": None, "rss_mb": None}
    pids = [identity.pid] if alone else processes.family(identity.pid)
    proportional, resident = processes.pss_bytes(pids), processes.rss_bytes(pids)
    sizes: dict[str, Any] = {
        "memory_bytes": resident if proportional is None else proportional,
        "rss_mb": _mebibytes(resident),
    }
    if proportional is not None:  # macOS does not tell
        sizes["pss_mb"] = _mebibytes(proportional)
    return {"uptime_s": round(uptime_s, 1), **sizes}


def _mebibytes(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / 1_048_576, 1)
