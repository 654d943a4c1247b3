"""Two colours, one Postgres and one inbox: which colour runs them, and which one stops them last.

Every supervisor is a member while it lives, by a lock that the kernel takes
back. Each shared service has one stack that keeps it, by another lock: the first who comes;
when that one goes, the next member takes over what runs. The last member to
leave stops them. Joining and leaving happen one at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops.stack import documents, locks, records
from ops.stack import layout as places
from ops.stack.locks import FileLock
from ops.stack.variables import SharedPorts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ops.stack.layout import Layout

_PORTS = {
    "postgres": {"postgres": places.POSTGRES},
    "inbox": {"inbox_smtp": places.INBOX_SMTP, "inbox_http": places.INBOX_HTTP},
}


def own_ports(layout: Layout) -> SharedPorts:
    """The ports that this colour gives the shared services where it comes first."""
    found = {name: layout.port(at) for ports in _PORTS.values() for name, at in ports.items()}
    return SharedPorts(**found)


class Membership:
    """One colour's part in the shared services of a data folder."""

    def __init__(self, layout: Layout) -> None:
        """Nobody is a member before `join`."""
        self._layout = layout
        self._folder = layout.shared / "run"
        self._turnstile = self._folder / "members.lock"
        self._member = FileLock(_member_file(layout))
        self._keeping: dict[str, FileLock] = {}

    def join(self, embedded: Iterable[str]) -> SharedPorts:
        """Become a member, keep what nobody keeps of `embedded`, and learn the ports."""
        file = self._folder / "ports.json"
        with locks.waiting_for(self._turnstile):
            self._member.take()
            ports = dict(documents.read(file) or {})
            for name, offsets in _PORTS.items():
                own = {port: self._layout.port(offset) for port, offset in offsets.items()}
                if name in embedded and self.lock(name).take() and not self._alive(name):
                    ports |= own
                ports = {**own, **ports}
            documents.write(file, ports)
        return SharedPorts(**ports)

    def lock(self, name: str) -> FileLock:
        """The lock of whoever keeps the service `name`."""
        return self._keeping.setdefault(name, FileLock(self._folder / f"{name}.lock"))

    def leave(self, *, say: Callable[[str], None]) -> bool:
        """Stop the shared services if nobody else uses them; whether they were stopped."""
        with locks.waiting_for(self._turnstile):
            self._member.release()
            last = not any(
                locks.taken(_member_file(self._layout.other(colour)))
                for colour in places.COLOURS
                if colour != self._layout.colour
            )
            if last:
                records.stop_all(records.read_all(self._folder), say=say)
            for lock in self._keeping.values():
                lock.release()
        return last

    def _alive(self, name: str) -> bool:
        record = records.read(self._folder / f"{name}.service.json")
        return record is not None and record.identity.alive()


def _member_file(layout: Layout) -> Path:
    return layout.shared / "run" / f"member-{layout.colour}.lock"
