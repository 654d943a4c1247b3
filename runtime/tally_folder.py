"""The folder where the processes of a colour leave their tallies for the gateway to add up.

Each process owns one file, named by a token of its own, and holds a lock on it for as long as
it lives; the kernel frees the lock however the process ends, in whatever container. A file
whose lock is free belongs to the dead: it is added to `retired.json` and removed, so that
counters never go back and the folder does not grow with every restart.

Why not the memory-mapped files of prometheus_client's multiprocess mode: they name their
owner by pid, which containers and restarts use twice, they are never merged, and each
observation would cost a job several microseconds.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runtime import logs
from runtime.tally import LiveTally, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVERY_S = 0.5
log = logs.logger("metrics")


class TallyFolder:
    """This process's place in the folder, and its view of the others."""

    def __init__(self, path: Path, *, service: str, tally: LiveTally) -> None:
        self._path = path
        self._name = f"{service}-{secrets.token_hex(8)}"
        self._tally = tally
        self._written = -1
        self._lock_fd = -1
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tally", daemon=True)

    def start(self) -> None:
        """Take the place; a folder that cannot be written to loses the metrics, not the process."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            with self._retiring():  # the new file must not be visible before its lock is held
                self._lock_fd = _locked(self._path / f"{self._name}.lock")
            self._write()
        except OSError as error:
            log.warning("metrics.folder_refused", folder=str(self._path), error=str(error))
            return
        self._thread.start()

    def stop(self) -> None:
        """Write the last metrics and give up the place."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def others(self) -> Tally:
        """What every other process of this colour has counted, including dead ones."""
        try:
            with self._retiring():
                self._retire()
                return self._sum()
        except OSError as error:
            log.warning("metrics.folder_refused", folder=str(self._path), error=str(error))
            return Tally()

    def _run(self) -> None:
        refused = False
        while True:
            stopping = self._stopping.wait(EVERY_S)
            try:
                self._write()
                refused = False
            except OSError as error:
                if not refused:  # once per outage, not twice a second
                    log.warning("metrics.folder_refused", folder=str(self._path), error=str(error))
                refused = True
            if stopping:
                return

    def _write(self) -> None:
        changes = self._tally.changes
        if changes != self._written:
            _replace(self._path / f"{self._name}.json", _dumped(self._tally.copy()))
            self._written = changes

    def _sum(self) -> Tally:
        total = Tally()
        for file in self._path.glob("*.json"):
            if file.stem != self._name and file.name != "retiring.json":
                total.merge(_loaded(file))
        return total

    def _retire(self) -> None:
        """Merge the files of dead processes into one.

        The new sum is written with the names it includes before anything is removed, so a
        crash at any point neither loses a number nor counts it twice.
        """
        self._finish_retiring()
        dead = [
            file.stem
            for file in self._path.glob("*.lock")
            if file.stem not in {self._name, "folder"} and _is_free(file)
        ]
        if not dead:
            return
        total = _loaded(self._path / "retired.json")
        for name in dead:
            total.merge(_loaded(self._path / f"{name}.json"))
        _replace(self._path / "retiring.json", _dumped(total, includes=dead))
        self._finish_retiring()

    def _finish_retiring(self) -> None:
        file = self._path / "retiring.json"
        if not file.exists():
            return
        names = json.loads(file.read_bytes())["includes"]
        for name in names:
            (self._path / f"{name}.json").unlink(missing_ok=True)
            (self._path / f"{name}.new").unlink(missing_ok=True)
        # From here on the sum counts; its sources are gone, and their locks only marked them as
        # dead.
        file.replace(self._path / "retired.json")
        for name in names:
            (self._path / f"{name}.lock").unlink(missing_ok=True)

    @contextmanager
    def _retiring(self) -> Iterator[None]:
        """One process at a time merges; the lock is released with the descriptor."""
        descriptor = os.open(self._path / "folder.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _locked(file: Path) -> int:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _is_free(file: Path) -> bool:
    try:
        os.close(_locked(file))
    except BlockingIOError:
        return False
    return True


def _replace(file: Path, content: bytes) -> None:
    """Write whole or not at all, as a reader sees it."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(file)


def _dumped(tally: Tally, *, includes: list[str] | None = None) -> bytes:
    return json.dumps(
        {
            "includes": includes or [],
            "counts": [[name, labels, count] for (name, labels), count in tally.counts.items()],
            "histograms": [
                [name, labels, cells] for (name, labels), cells in tally.histograms.items()
            ],
        },
        separators=(",", ":"),
    ).encode()


def _loaded(file: Path) -> Tally:
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return Tally()
    return Tally(
        counts={(name, tuple(labels)): count for name, labels, count in document["counts"]},
        histograms={(name, tuple(labels)): cells for name, labels, cells in document["histograms"]},
    )
