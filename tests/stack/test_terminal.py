"""What callers put into names, errors and logs cannot command the terminal of whoever looks."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ops.cli import logs, screen
from tests.stack.cluster import CHECKOUT, Cluster

HOSTILE = "x\x1b[2Jy\x1b]0;title\x07z\x9b31m\u202eevil\u2066\u200b\r\x7f"
JOB_ID = "01932e4b-7d3c-7e2a-9f11-0123456789ab"
JOB = {
    "id": JOB_ID,
    "kind": HOSTILE,
    "queue": "template",
    "lane": HOSTILE,
    "state": HOSTILE,
    "attempt": 1,
    "created_at": "2026-11-24T22:54:15.730+00:00",
    "error": HOSTILE,
    "tags": [HOSTILE],
    "payload": {"subject": HOSTILE},
}


class _Gateway(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.endswith("/events"):
            return self._answer(200, {"events": [{"state": HOSTILE, "reason": HOSTILE}]})
        if "/jobs/" in self.path:
            return self._answer(200, JOB)
        return self._answer(200, {"jobs": [JOB], "next": None})

    def do_POST(self) -> None:
        if "retry" in self.path:
            return self._answer(409, {"detail": HOSTILE})
        return self._answer(200, JOB)

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[dict[str, str]]:
    server = HTTPServer(("127.0.0.1", 0), _Gateway)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield {"RELAIS_URL": f"http://127.0.0.1:{server.server_port}", "RELAIS_API_KEY": "k"}
    server.shutdown()
    thread.join()
    server.server_close()


def is_harmless(text: str) -> bool:
    return screen.visible(text) == text


@pytest.mark.parametrize(
    "words", [["list"], ["show", JOB_ID], ["cancel", JOB_ID], ["retry", HOSTILE]]
)
def test_jobs_show_hostile_values_as_escapes(
    cluster: Cluster, gateway: dict[str, str], words: list[str]
) -> None:
    done = cluster.run("jobs", *words, **gateway, COLUMNS="80")
    assert "Traceback" not in done.stderr
    assert is_harmless(done.stdout), ascii(done.stdout)
    assert is_harmless(done.stderr), ascii(done.stderr)
    assert "\\x1b" in done.stdout + done.stderr
    if words[0] != "retry":
        assert JOB_ID in done.stdout


def test_wrong_words_are_repeated_as_escapes(cluster: Cluster) -> None:
    for words in (["\x1b[2J"], ["up", "--colour", "\x9b31m"]):
        done = cluster.run(*words)
        assert is_harmless(done.stderr), ascii(done.stderr)


def test_logs_are_shown_as_escapes(cluster: Cluster) -> None:
    folder = cluster.data / "logs" / "blue"
    folder.mkdir(parents=True)
    line = {"at": "2026-11-24T22:54:15.730+00:00", "level": "info", "action": "job.failed"}
    text = json.dumps({**line, "error": HOSTILE}, ensure_ascii=False)
    (folder / "gateway.log").write_text(f"{text}\nplain {HOSTILE}\n")
    done = cluster.run("logs")
    assert is_harmless(done.stdout), ascii(done.stdout)
    assert '"action": "job.failed"' in done.stdout


def test_a_line_of_json_is_readable_on_a_terminal() -> None:
    line = {"at": "2026-11-24T22:54:15.730+00:00", "level": "info", "action": "a.b", "n": 1}
    assert logs.readable(json.dumps(line)) == "22:54:15 info    a.b n=1"
    lines = json.dumps({**line, "message": "one\n\ntwo"})
    assert logs.readable(lines) == "22:54:15 info    a.b one two n=1"
    for other in ("plain", "{broken", '{"no": "action"}', "[1]"):
        assert logs.readable(other) == other


@pytest.mark.parametrize("words", [["--version"], ["jobs", "list", "-h"]])
def test_version_and_help(words: list[str]) -> None:
    command = [sys.executable, "-P", "-m", "ops.cli", *words]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "relais" in done.stdout


def test_nothing_is_wider_than_80_columns(cluster: Cluster, gateway: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ops.cli", "jobs", "list"],
        env={**cluster.env, **gateway, "COLUMNS": "80", "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(theirs)
    with os.fdopen(ours, "rb") as terminal:
        printed = terminal.read1(65_536).decode()
    assert done.returncode == 0, done.stderr
    assert all(len(line) <= 80 for line in printed.splitlines()), printed
    assert JOB_ID in printed
    assert "2026-11-24T22:54:15.730+00:00" in printed
