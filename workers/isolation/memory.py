"""How much memory isolated processes may have: each, and all of one worker together.

Every process is held to its address space by the kernel (`inside.kernel.limit`), so no more of
them are let run at once than fit in together with all of it. Others wait for their turn.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from runtime import logs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.settings import Settings
    from workers.isolation.environment import Role

log = logs.logger("isolation")

_RENDERING_SHARE = 4  # a quarter: callers' templates must leave room for everything else
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def limit_bytes(role: Role, settings: Settings) -> int:
    """The address space of one process of `role`."""
    return settings.render_memory_bytes if role == "function" else settings.isolated_memory_bytes


def at_once(role: Role, settings: Settings, *, wanted: int) -> int:
    """How many processes of `role` one worker may have: `wanted`, or fewer; at least one."""
    total_bytes = settings.isolated_memory_total_bytes or of_machine_bytes()
    rendering_bytes = total_bytes // _RENDERING_SHARE
    share_bytes = rendering_bytes if role == "function" else total_bytes - rendering_bytes
    each_bytes = limit_bytes(role, settings)
    found = max(1, min(wanted, share_bytes // each_bytes))
    if found < wanted:
        log.info("isolation.memory_limits", role=role, at_once=found, wanted=wanted)
    return found


def of_machine_bytes(*, cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int:
    """The memory of this machine, or of the container (control group) if that has less."""
    of_machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([of_machine, *_limits(cgroups, own)])


def _limits(cgroups: Path, own: Path) -> Iterator[int]:
    """The limits of our control group and of those around it (Linux, both versions)."""
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                top, file = cgroups, "memory.max"
            elif "memory" in controllers.split(","):
                top, file = cgroups / "memory", "memory.limit_in_bytes"
            else:
                continue
            group = top / path.lstrip("/")
            for each in (group, *group.parents):
                # Inside a container the path may be the host's, of which only the top is seen.
                with contextlib.suppress(OSError, ValueError):  # "max", or no such file
                    yield int((each / file).read_text())
                if each == top:
                    break
