"""One n8n process on the stack's Postgres, filled with credentials and workflows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import psycopg

from ops.errors import OpsError
from ops.stack.ports import LOOPBACK
from tests.n8n import install

DATABASE = "n8n"
START_MAX_S = 180.0
STOP_MAX_S = 20.0


class N8nError(OpsError):
    """n8n did not do what was asked of it."""


class N8n:
    """Import first, then start; one object is one n8n."""

    def __init__(
        self,
        program: Path,
        *,
        folder: Path,
        database_url: str,
        port: int,
        public_url: str,
        callback_secret: str,
    ) -> None:
        """`folder` holds its key and logs; `public_url` is what resume URLs start with."""
        self.url = f"http://{LOOPBACK}:{port}"
        self._command = [install.node(), str(program)]
        self._folder = folder
        self._server = urlsplit(database_url)
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "n8n.log"
        self._environment = {
            **os.environ,
            "DB_TYPE": "postgresdb",
            "DB_POSTGRESDB_HOST": self._server.hostname or LOOPBACK,
            "DB_POSTGRESDB_PORT": str(self._server.port or 5432),
            "DB_POSTGRESDB_USER": unquote(self._server.username or ""),
            "DB_POSTGRESDB_PASSWORD": unquote(self._server.password or ""),
            "DB_POSTGRESDB_DATABASE": DATABASE,
            "N8N_USER_FOLDER": str(folder),
            "N8N_LISTEN_ADDRESS": LOOPBACK,
            "N8N_PORT": str(port),
            "WEBHOOK_URL": public_url,
            "RELAIS_CALLBACK_SECRET": callback_secret,
            "NODE_FUNCTION_ALLOW_BUILTIN": "crypto",
            "N8N_EXPRESSION_ENGINE": "legacy",  # the other one is a native module
            "N8N_RUNNERS_ENABLED": "false",
            "N8N_DIAGNOSTICS_ENABLED": "false",
            "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
            "N8N_TEMPLATES_ENABLED": "false",
            "N8N_LOG_LEVEL": "warn",
            "NO_UPDATE_NOTIFIER": "1",
        }

    def create_database(self) -> None:
        """Make n8n's own database where it is missing."""
        with psycopg.connect(self._server.geturl(), autocommit=True) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(query, (DATABASE,)).fetchone() is None:
                connection.execute(f'CREATE DATABASE "{DATABASE}"')

    def fill(self, *, credentials: list[dict[str, Any]], workflows: list[dict[str, Any]]) -> None:
        """Import both and activate the workflows; same ids are replaced. Before `start`."""
        for what, content in (("credentials", credentials), ("workflow", workflows)):
            file = self._folder / f"{what}.json"
            file.touch(mode=0o600)
            file.write_text(json.dumps(content))
            try:
                self._run(f"import:{what}", f"--input={file}")
            finally:
                file.unlink()
        for workflow in workflows:
            self._run("update:workflow", f"--id={workflow['id']}", "--active=true")

    def start(self) -> None:
        """Start and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "start"],
                env=self._environment,
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_MAX_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                message = f"n8n did not start:\n{self._tail()}"
                raise N8nError(message, remedy=f"The whole log is {self._log}.")
            time.sleep(0.25)

    def last_execution(self) -> int:
        """The newest execution's id; 0 before the first one."""
        found = self._query("SELECT coalesce(max(id), 0) FROM execution_entity", ())
        return int(found[0]) if found else 0

    def execution_after(self, execution: int) -> int | None:
        """The first execution newer than `execution`."""
        query = "SELECT min(id) FROM execution_entity WHERE id > %s"
        found = self._query(query, (execution,))
        return found[0] if found else None

    def status(self, execution: int) -> str:
        """`new`, `running`, `waiting`, `success`, `error` ..."""
        found = self._query("SELECT status FROM execution_entity WHERE id = %s", (execution,))
        return str(found[0]) if found else "new"

    def node_outputs(self, execution: int) -> dict[str, list[dict[str, Any]]]:
        """By node: the JSON of the items it gave out last, over all of its outputs."""
        found = self._query(
            'SELECT data FROM execution_data WHERE "executionId" = %s', (execution,)
        )
        if found is None:
            return {}
        runs = _unflatten(json.loads(found[0]))["resultData"]["runData"]
        return {
            name: [item["json"] for output in run[-1]["data"]["main"] for item in output or []]
            for name, run in runs.items()
            if "data" in run[-1]
        }

    def stop(self) -> None:
        """End it and everything it started."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_MAX_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            [*self._command, *words],
            env=self._environment,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=START_MAX_S,
            check=False,
        )
        if done.returncode != 0:
            message = f"n8n {words[0]} failed:\n{(done.stdout + done.stderr)[-2000:]}"
            raise N8nError(message)

    def _answers(self) -> bool:
        # Readiness comes before the webhooks: until those are there, Express says 404 in HTML.
        try:
            answer = httpx.get(f"{self.url}/webhook/is-there-one", timeout=5, trust_env=False)
        except httpx.TransportError:
            return False
        return "application/json" in answer.headers.get("content-type", "")

    def _query(self, query: str, values: tuple[object, ...]) -> tuple[Any, ...] | None:
        url = self._server._replace(path=f"/{DATABASE}").geturl()
        with psycopg.connect(url) as connection:
            return connection.execute(query, values).fetchone()

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


def _unflatten(table: list[Any]) -> Any:
    """Undo n8n's way of storing data: a table of values in which strings are row numbers."""
    done: dict[int, Any] = {}

    def row(number: int) -> Any:
        if number not in done:
            value = table[number]
            if isinstance(value, dict):
                target: dict[str, Any] = {}
                done[number] = target
                target.update({name: entry(part) for name, part in value.items()})
            elif isinstance(value, list):
                items: list[Any] = []
                done[number] = items
                items.extend(entry(part) for part in value)
            else:
                done[number] = value
        return done[number]

    def entry(part: Any) -> Any:
        return row(int(part)) if isinstance(part, str) else part

    return row(0)
