"""The embedded Valkey (or Redis): the doorbell's wire, in memory only."""

from __future__ import annotations

import os
import secrets
import signal
import socket
from typing import TYPE_CHECKING
from urllib.parse import quote

from ops.stack import account, child, logfiles, ports, programs

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

CONFIG: dict[str, str] = {
    "bind": ports.LOOPBACK,
    "protected-mode": "yes",
    "daemonize": "no",
    # Doorbells are worth nothing after a restart: the ledger rings again.
    "save": '""',
    "appendonly": "no",
    # Evicting a doorbell or a binding silently is worse than an error that is seen.
    "maxmemory": "512mb",
    "maxmemory-policy": "noeviction",
    "tcp-keepalive": "60",
}

_ANSWER_S = 2.0


class Valkey:
    """A Valkey server of its own in `folder`, on 127.0.0.1, with a password.

    `port` 0 picks a free one. `config` overrides settings of valkey.conf.
    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        *,
        password: str | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is written or started before `prepare` or `start`."""
        self.folder = folder
        self.port = port or ports.free()
        self.password = password or secrets.token_urlsafe(24)
        self.log = folder / "valkey.log"
        self._config = {**CONFIG, **(config or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`redis://:password@127.0.0.1:port/0`."""
        return f"redis://:{quote(self.password, safe='')}@{ports.LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """Process id while it runs as a child of this process."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def prepare(self) -> child.Command:
        """Write the configuration (a file, because arguments can be read in `ps`)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700 if account.for_servers() is None else 0o711)
        program = programs.reachable(programs.valkey(), self.folder)
        room = account.make_folder(self.folder / "room")
        settings = {
            "dir": f'"{room}"',
            "requirepass": self.password,
            **self._config,
        }
        # Beside the room that the server writes, not in it.
        path = self.folder / "valkey.conf"
        lines = "".join(f"{name} {value}\n" for name, value in settings.items())
        account.write_for_servers(path, lines)
        words = (str(program), str(path), "--port", str(self.port))
        env = {name: value for name, value in os.environ.items() if not name.startswith("RELAIS_")}
        return child.Command(words, env, account.for_servers())

    def start(self, *, timeout_s: float = 20.0) -> Self:
        """Start and wait until SET and GET work; returns self."""
        command = self.prepare()
        ports.require_free(self.port, service="Valkey")
        with logfiles.to_append(self.log) as log:
            self._process = child.spawn(command, log=log)
        child.wait_until(self.ping, self._process, name="Valkey", log=self.log, within_s=timeout_s)
        return self

    def stop(self, mode: str = "fast", *, timeout_s: float = 10.0) -> None:
        """Stop and wait: `fast` by SIGTERM, `immediate` by SIGKILL."""
        if self._process is not None:
            how = signal.SIGKILL if mode == "immediate" else signal.SIGTERM
            child.stop(self._process, how, grace_s=timeout_s)
            self._process = None

    def ping(self) -> bool:
        """Whether a key can be set, read back and deleted."""
        try:
            with socket.create_connection((ports.LOOPBACK, self.port), _ANSWER_S) as connection:
                return keeps_a_key(connection, password=self.password)
        except OSError:
            return False

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()


def keeps_a_key(connection: socket.socket, *, password: str, user: str = "") -> bool:
    """Whether a key can be set, read back and deleted over this connection, in plain RESP.

    Raises OSError where the connection fails.
    """
    token = secrets.token_hex(8)
    key = f"relais:health:{token}"
    commands = [["SET", key, token, "PX", "5000"], ["GET", key], ["DEL", key]]
    if password:
        commands.insert(0, ["AUTH", *filter(None, (user, password))])
    connection.sendall(b"".join(_encoded(command) for command in commands))
    received = b""
    # The deleted key's `:1` comes last; an error may come anywhere before.
    while not received.endswith(b":1\r\n"):
        part = connection.recv(4096)
        received += part
        if not part or received.startswith(b"-") or b"\r\n-" in received:
            return False
    return token.encode() in received


def _encoded(command: list[str]) -> bytes:
    parts = [f"*{len(command)}\r\n".encode()]
    for word in command:
        raw = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(raw), raw))
    return b"".join(parts)
