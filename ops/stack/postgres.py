"""The embedded Postgres: unpacked, initialised, configured, started, stopped.

It listens on 127.0.0.1 only, without unix sockets (their paths may have 107
bytes at most, and a data folder may lie deep), and asks for a SCRAM password.
The application's role owns the schema `relais` and nothing else; see
docs/adr/database-roles.md. Nothing is written into the cluster's folder from
outside: whoever gets at the server could put links there.
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
from ops.stack import account, child, logfiles, ports, programs
from ops.stack.postgres_config import CONFIG
from ops.stack.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

USER = "relais"
DATABASE = "relais"
SUPERUSER = "postgres"
BUILTIN_LOCALE_SINCE = 17

_END_S = 60.0
_OWN = "own.conf"
_HEADER = f"# Written at every start; put your own settings into {_OWN} beside it."
_ROLES, _OWNERSHIP = (
    Path(__file__).with_name(name).read_text(encoding="utf-8")
    for name in ("roles.sql", "ownership.sql")
)

StopMode = Literal["fast", "immediate"]
_SIGNALS: dict[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Postgres:
    """A PostgreSQL server of its own in `folder`, on 127.0.0.1.

    `port` 0 picks a free one, kept until `stop`. `password` is made up where
    none is given, and so is the superuser's; an empty one means that nobody
    logs in as superuser. `programs_dir` lets several servers share one unpacked
    PostgreSQL. `config` overrides settings of postgresql.conf, quoted as there.
    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        *,
        password: str | None = None,
        superuser_password: str | None = None,
        programs_dir: Path | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is written or started before `prepare` or `start`."""
        self.folder = folder
        self.port = port or ports.free()
        self.password = password or secrets.token_urlsafe(24)
        if superuser_password is None:
            superuser_password = secrets.token_urlsafe(24)
        self._superuser_password = superuser_password
        self.log = folder / "postgres.log"
        self.cluster = folder / "cluster"
        self._programs_dir = programs_dir or folder
        self._config = {**CONFIG, **(config or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`postgresql://user:password@127.0.0.1:port/database`, libpq's form."""
        return self._url(USER, self.password)

    @property
    def superuser_url(self) -> str:
        """The same for the superuser, which tests and benchmarks make databases with."""
        return self._url(SUPERUSER, self._superuser_password)

    @property
    def pid(self) -> int | None:
        """Process id while it runs as a child of this process."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def prepare(self) -> child.Command:
        """Unpack, initialise and configure what is not yet; return the command to run.

        Raises StackError where the servers' account cannot reach the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700 if account.for_servers() is None else 0o711)
        closed = account.closed_ancestor(self.folder)
        if closed is not None:
            sentence = f"Postgres does not run as root, and its account may not enter {closed}."
            raise StackError(sentence, remedy="Choose another folder with --data-dir.")
        bin_dir = programs.postgres(self._programs_dir)
        self._configure()
        if not (self.cluster / "PG_VERSION").exists():
            self._initialise(bin_dir)
        self._clear_stale_lock()
        self._arrange_roles(bin_dir)
        settings = tuple(f"--{name}={path}" for name, path in self._files().items())
        server = str(bin_dir / "postgres")
        words = (server, "-D", str(self.cluster), "-p", str(self.port), *settings)
        return child.Command(words, _env(bin_dir), account.for_servers())

    def start(self, *, timeout_s: float = 60.0) -> Self:
        """Start and wait until it answers SELECT 1; returns self."""
        command = self.prepare()
        ports.require_free(self.port, service="Postgres")
        with logfiles.to_append(self.log) as log:
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
            # The superuser has no password here, and the server is reached by password only.
            initdb: list[str | Path] = [bin_dir / "initdb", "-D", cluster, "-U", SUPERUSER]
            initdb += ["--auth-local=reject", "--auth-host=scram-sha-256", "--encoding=UTF8"]
            _run([*initdb, *_locale(bin_dir)])
            self._run_alone(bin_dir, cluster, "postgres", f"CREATE DATABASE {DATABASE};\n\n")
            # The move is made by the account that owns the cluster's parent: this one.
            cluster.rename(self.cluster)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _arrange_roles(self, bin_dir: Path) -> None:
        """Bring roles, passwords and ownership to what they should be, where they are not.

        Also in a cluster that an earlier version made, whose one role was a superuser.
        """
        known = self.folder / "roles.sha256"
        given = self._superuser_password
        roles = _ROLES.replace(":password", _literal(self.password)).replace(
            ":superuser", _literal(given) if given else "NULL"
        )
        digest = hashlib.sha256((roles + _OWNERSHIP).encode()).hexdigest()
        if known.exists() and known.read_text() == digest:
            return
        self._end_running()
        self._run_alone(bin_dir, self.cluster, "postgres", roles)
        self._run_alone(bin_dir, self.cluster, DATABASE, _OWNERSHIP)
        account.write_private(known, digest)

    def _end_running(self) -> None:
        """Stop a server that a supervisor left behind: roles are arranged by nobody else."""
        pid = self.running_pid()
        identity = Identity.of(pid) if pid is not None else None
        if identity is not None:
            identity.send(signal.SIGINT)
            if not identity.wait(_END_S):
                sentence = f"Postgres (pid {identity.pid}) does not stop."
                raise StackError(sentence, remedy=f"Stop it, or see {self.log}.")

    def _run_alone(self, bin_dir: Path, cluster: Path, database: str, statements: str) -> None:
        """Run `statements` as superuser, in a server that nobody else can reach."""
        settings = [f"--{name}={path}" for name, path in self._files().items()]
        command: list[str | Path] = [bin_dir / "postgres", "--single", "-j", "-D", cluster]
        _run([*command, *settings, "--exit_on_error=on", database], stdin=statements)

    def _files(self) -> dict[str, Path]:
        """What the server reads and must not be able to write, by the setting that names it."""
        return {
            "config_file": self.folder / "postgresql.conf",
            "hba_file": self.folder / "pg_hba.conf",
            "ident_file": self.folder / "pg_ident.conf",
        }

    def _configure(self) -> None:
        lines = [f"{name} = {value}" for name, value in self._config.items()]
        if (self.folder / _OWN).exists():
            lines.append(f"include = '{_OWN}'")
        written = {
            "config_file": "\n".join((_HEADER, *lines)),
            "hba_file": f"host all all {ports.LOOPBACK}/32 scram-sha-256",
            "ident_file": "# nobody",
        }
        for name, path in self._files().items():
            account.write_for_servers(path, f"{written[name]}\n")

    def _url(self, user: str, password: str) -> str:
        at = f"{ports.LOOPBACK}:{self.port}/{DATABASE}"
        return f"postgresql://{user}:{quote(password, safe='')}@{at}"

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
            lock = os.open(self.cluster / "postmaster.pid", os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # none, or a link
            return None
        with os.fdopen(lock, errors="replace") as file:
            first = file.read(1024).splitlines()[:1]
        pid = int(first[0]) if first and first[0].isdigit() else None
        return pid if pid is not None and child.runs(pid, "postgres") else None


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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
        lines = (result.stderr or result.stdout).splitlines()
        said = [line for line in lines if "FATAL:" in line or "ERROR:" in line] or lines
        detail = " ".join(" ".join(said).split())[-400:]
        sentence = f"{Path(command[0]).name} failed: {detail}"
        raise StackError(sentence, remedy="Check the data folder's permissions and free space.")
    return result.stdout
