"""The embedded Postgres: unpacked, initialised, configured, started, stopped.

It listens on 127.0.0.1 only, without unix sockets (their paths may have 107
bytes at most, and a data folder may lie deep), and asks for a SCRAM password.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from ops.errors import StackError
from ops.stack import account, child, ports, programs
from ops.stack.postgres_config import CONFIG

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

USER = "relais"
DATABASE = "relais"
BUILTIN_LOCALE_SINCE = 17

StopMode = Literal["fast", "immediate"]
_SIGNALS: dict[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Postgres:
    """A PostgreSQL server of its own in `folder`, on 127.0.0.1.

    `port` 0 picks a free one, kept until `stop`. `password` is made up where
    none is given. `programs_dir` lets several servers share one unpacked
    PostgreSQL. `config` overrides settings of postgresql.conf, quoted as there.
    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        *,
        password: str | None = None,
        programs_dir: Path | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is written or started before `prepare` or `start`."""
        self.folder = folder
        self.port = port or ports.free()
        self.password = password or secrets.token_urlsafe(24)
        self.log = folder / "postgres.log"
        self.cluster = folder / "cluster"
        self._programs_dir = programs_dir or folder
        self._config = {**CONFIG, **(config or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`postgresql://user:password@127.0.0.1:port/database`, libpq's form."""
        password = quote(self.password, safe="")
        return f"postgresql://{USER}:{password}@{ports.LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def sqlalchemy_url(self) -> str:
        """The same with SQLAlchemy's driver name."""
        return self.url.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def pid(self) -> int | None:
        """Process id while it runs as a child of this process."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def prepare(self) -> child.Command:
        """Unpack, initialise and configure what is not yet; return the command to run.

        Raises StackError where the servers' account cannot reach the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        closed = account.closed_ancestor(self.folder)
        if closed is not None:
            sentence = f"Postgres does not run as root, and its account may not enter {closed}."
            raise StackError(sentence, remedy="Choose another folder with --data-dir.")
        bin_dir = programs.postgres(self._programs_dir)
        if not (self.cluster / "PG_VERSION").exists():
            self._initialise(bin_dir)
        self._configure()
        self._clear_stale_lock()
        self._agree_on_password(bin_dir)
        words = (str(bin_dir / "postgres"), "-D", str(self.cluster), "-p", str(self.port))
        return child.Command(words, _env(bin_dir), account.for_servers())

    def start(self, *, timeout_s: float = 60.0) -> Self:
        """Start and wait until it answers SELECT 1; returns self."""
        command = self.prepare()
        ports.require_free(self.port, service="Postgres")
        with self.log.open("ab") as log:
            self._process = child.spawn(command, log=log)
        child.wait_until(
            self.ping, self._process, name="Postgres", log=self.log, within_s=timeout_s
        )
        return self

    def stop(self, mode: StopMode = "fast", *, timeout_s: float = 30.0) -> None:
        """Stop and wait: `fast` ends connections and checkpoints, `immediate` drops everything."""
        if self._process is not None:
            child.stop(self._process, _SIGNALS[mode], grace_s=timeout_s)
            self._process = None

    def ping(self) -> bool:
        """Whether it answers SELECT 1 with the password."""
        # Imported here: the command line must not pay for it where it only prints help.
        import psycopg  # noqa: PLC0415

        try:
            with psycopg.connect(self.url, connect_timeout=2) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop fast."""
        self.stop()

    def _initialise(self, bin_dir: Path) -> None:
        """Make the cluster beside its place and move it there, so it is whole or absent."""
        draft = account.make_folder(Path(tempfile.mkdtemp(dir=self.folder, prefix=".initdb-")))
        try:
            cluster = draft / "cluster"
            password_file = draft / "password"
            password_file.touch(mode=0o600)
            password_file.write_text(self.password)
            account.hand_over(password_file)
            initdb: list[str | Path] = [bin_dir / "initdb", "-D", cluster, "-U", USER]
            initdb += ["--pwfile", password_file]
            _run([*initdb, "--auth=scram-sha-256", "--encoding=UTF8", *_locale(bin_dir)])
            create = f"CREATE DATABASE {DATABASE};\n"
            _run([bin_dir / "postgres", "--single", "-D", cluster, "postgres"], stdin=create)
            # The move is made by the account that owns the cluster's parent: this one.
            cluster.rename(self.cluster)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _agree_on_password(self, bin_dir: Path) -> None:
        """Give the cluster the present password where another one made it (new secrets)."""
        known = self.folder / "password.sha256"
        digest = hashlib.sha256(self.password.encode()).hexdigest()
        if known.exists() and known.read_text() == digest:
            return
        if known.exists() and self.running_pid() is None:
            quoted = self.password.replace("'", "''")
            change = f"ALTER ROLE {USER} PASSWORD '{quoted}';\n"
            _run([bin_dir / "postgres", "--single", "-D", self.cluster, "postgres"], stdin=change)
        known.touch(mode=0o600)
        known.write_text(digest)

    def _configure(self) -> None:
        lines = [f"{name} = {value}" for name, value in self._config.items()]
        path = self.cluster / "postgresql.conf"
        path.write_text("# Written at every start; use ALTER SYSTEM for your own.\n")
        with path.open("a") as config:
            config.write("\n".join(lines) + "\n")
        account.hand_over(path)

    def _clear_stale_lock(self) -> None:
        """Remove a postmaster.pid whose process is gone or is something else by now.

        Postgres does this itself, unless the number was given to another
        process in the meantime; after a container's restart that is the rule.
        """
        if self.running_pid() is None:
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def running_pid(self) -> int | None:
        """The server that runs in this folder, whoever started it; None where none does."""
        try:
            first = (self.cluster / "postmaster.pid").read_text().splitlines()[:1]
        except FileNotFoundError:
            return None
        pid = int(first[0]) if first and first[0].isdigit() else None
        return pid if pid is not None and child.runs(pid, "postgres") else None


def _locale(bin_dir: Path) -> list[str]:
    """UTF-8 case rules without the operating system's locales where the version has them."""
    found = re.search(r"(\d+)", _run([bin_dir / "postgres", "--version"]))
    if found and int(found[1]) >= BUILTIN_LOCALE_SINCE:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C"]


def _env(bin_dir: Path) -> dict[str, str]:
    """The caller's environment without what would steer Postgres or is not its business.

    Its own libraries come on top.

    The wheel's `postgres` finds its direct libraries by itself, but not those
    that they need in turn.
    """
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("PG", "RELAIS_"))
    }
    variable = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
    own = str(bin_dir.parent / "lib")
    return {**env, "LC_ALL": "C", variable: ":".join(filter(None, (own, env.get(variable))))}


def _run(command: list[str | Path], *, stdin: str = "") -> str:
    """Run one of Postgres' own programs as the servers' account; return what it prints."""
    uid = account.for_servers()
    result = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
        cwd="/",
        env=_env(Path(command[0]).parent),
    )
    if result.returncode != 0:
        detail = " ".join((result.stderr or result.stdout).split())[-400:]
        sentence = f"{Path(command[0]).name} failed: {detail}"
        raise StackError(sentence, remedy="Check the data folder's permissions and free room.")
    return result.stdout
