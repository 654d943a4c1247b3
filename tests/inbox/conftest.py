from __future__ import annotations

import json
import os
import smtplib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]


@dataclass
class Inbox:
    """A running inbox process."""

    process: subprocess.Popen[str]
    smtp_port: int
    started: dict[str, Any]
    http: httpx.Client

    def smtp(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.smtp_port, local_hostname="test.localhost")

    def stats(self, **query: str) -> dict[str, int]:
        counts: dict[str, int] = self.http.get("/stats", params=query).raise_for_status().json()
        return counts

    def messages(self, **query: str | int) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/messages", params=query).raise_for_status().json()
        return found


StartInbox = Callable[..., Inbox]


@pytest.fixture
def start_inbox() -> Iterator[StartInbox]:
    running: list[Inbox] = []

    def start(data_dir: Path, *, file_max_bytes: int | None = None) -> Inbox:
        limit = [] if file_max_bytes is None else ["prlimit", f"--fsize={file_max_bytes}"]
        process = subprocess.Popen(
            [
                *limit,
                sys.executable,
                "-m",
                "ops.inbox",
                "--smtp-port=0",
                "--http-port=0",
                f"--data-dir={data_dir}",
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        started: dict[str, Any] = {}
        for line in process.stderr:
            started = json.loads(line)
            if started["action"] == "inbox.started":
                break
        assert started.get("action") == "inbox.started", "the inbox ended before it listened"
        http = httpx.Client(base_url=f"http://127.0.0.1:{started['http_port']}", trust_env=False)
        inbox = Inbox(process, started["smtp_port"], started, http)
        running.append(inbox)
        return inbox

    yield start
    for inbox in running:
        inbox.http.close()
        inbox.process.terminate()
        inbox.process.communicate(timeout=10)


@pytest.fixture
def inbox(start_inbox: StartInbox, tmp_path: Path) -> Inbox:
    return start_inbox(tmp_path / "inbox")
