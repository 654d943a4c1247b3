"""Installs n8n once, into a cache folder outside the checkout.

package.json pins what must lie at the top of node_modules: n8n requires `zod-class` without
naming it, and finds it only there; newer `@langchain/core` ask for packages that may be missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ops.errors import OpsError

PACKAGE = Path(__file__).parent / "package.json"
NODE_MIN = (20, 19)
ROOM_BYTES = 3_000_000_000
_STAMP = ".relais-installed"


class InstallError(OpsError):
    """n8n cannot be installed here."""


def cache_dir() -> Path:
    """Where n8n lies: RELAIS_N8N_CACHE, or a folder in the user's cache."""
    named = os.environ.get("RELAIS_N8N_CACHE")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "relais" / "n8n"


def is_installed(folder: Path) -> bool:
    """Whether `folder` holds exactly what package.json asks for."""
    stamp = folder / _STAMP
    return stamp.is_file() and stamp.read_text() == _wanted()


def ensure(folder: Path) -> Path:
    """The n8n program in `folder`, installed where it is missing; takes minutes and 1.7 GB."""
    program = folder / "node_modules" / "n8n" / "bin" / "n8n"
    node()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_installed(folder):
            _install(folder)
    return program


def node() -> str:
    """Node's program; raises InstallError where it is missing or too old."""
    program = shutil.which("node")
    if program is None:
        message = "node is not on PATH."
        raise InstallError(message, remedy="Install Node.js 20.19 or later, with npm.")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"v(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < NODE_MIN:
        message = f"{program} is {said.strip()}; n8n needs 20.19 or later."
        raise InstallError(message, remedy="Install a newer Node.js.")
    return program


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        message = "npm is not on PATH."
        raise InstallError(message, remedy="Install npm (it comes with Node.js).")
    if shutil.disk_usage(folder).free < ROOM_BYTES:
        message = f"{folder} has less than 3 GB of room."
        raise InstallError(message, remedy="Make room, or set RELAIS_N8N_CACHE to another folder.")
    sys.stderr.write(f"Installing n8n into {folder} (some minutes, 1.7 GB) ...\n")
    shutil.copy(PACKAGE, folder / "package.json")
    log = folder / "install.log"
    # Scripts stay off: native modules are not needed, and nothing foreign runs at install time.
    words = ("install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")
    with log.open("wb") as out:
        done = subprocess.run(
            [npm, *words], cwd=folder, stdout=out, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        message = f"npm install failed:\n{tail}"
        raise InstallError(message, remedy=f"The whole log is {log}.")
    (folder / _STAMP).write_text(_wanted())


def _wanted() -> str:
    return hashlib.sha256(PACKAGE.read_bytes()).hexdigest()
