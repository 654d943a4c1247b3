"""Where the stack keeps what it writes, and which ports a colour has."""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ops.errors import StackError, UsageError
from ops.stack import account

Colour = Literal["blue", "green"]
COLOURS: tuple[Colour, ...] = get_args(Colour)
PORT_BASE: dict[Colour, int] = {"blue": 8080, "green": 8090}
PORTS_PER_COLOUR = 10
GATEWAY, FLOWER, INBOX_HTTP, INBOX_SMTP, REDIS, POSTGRES, DEMO = range(7)

CHECKOUT = Path(__file__).resolve().parent.parent.parent
_FALLBACK = Path("/var/lib/relais")
_PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one colour under one data folder, and its first port."""

    data_dir: Path
    colour: Colour
    port_base: int

    @property
    def shared(self) -> Path:
        """What both colours use: Postgres and the inbox."""
        return self.data_dir / "shared"

    @property
    def run(self) -> Path:
        """What this colour's processes are doing."""
        return self.data_dir / "run" / self.colour

    @property
    def logs(self) -> Path:
        """One file per service of this colour."""
        return self.data_dir / "logs" / self.colour

    @property
    def shared_logs(self) -> Path:
        """One file per shared service."""
        return self.data_dir / "logs" / "shared"

    @property
    def secrets(self) -> Path:
        """Passwords and keys, readable by the owner only."""
        return self.data_dir / "secrets.json"

    @property
    def state(self) -> Path:
        """What the supervisor knows, rewritten whenever it changes."""
        return self.run / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the one supervisor of this colour."""
        return self.run / "supervisor.lock"

    @property
    def supervisor(self) -> Path:
        """Which process the supervisor is."""
        return self.run / "supervisor.json"

    @property
    def refusal(self) -> Path:
        """Why the last supervisor did not start."""
        return self.run / "refusal.json"

    @property
    def environment(self) -> Path:
        """The `RELAIS_*` variables that this colour's processes got."""
        return self.run / "environment.json"

    def command(self, words: str) -> str:
        """What to type, here and now, so that `./relais words` means this stack."""
        options = ["--colour", self.colour] if self.colour != colour_of(None) else []
        if self.data_dir != _data_dir(None):
            options += ["--data-dir", str(self.data_dir)]
        if words.startswith("up") and self.port_base != PORT_BASE[self.colour]:
            options += ["--port-base", str(self.port_base)]
        return " ".join(["./relais", words, *map(shlex.quote, options)])

    def port(self, offset: int) -> int:
        """The port at one of the module's offsets."""
        return self.port_base + offset

    def other(self, colour: Colour) -> Layout:
        """The same data folder seen by `colour`."""
        return Layout(self.data_dir, colour, PORT_BASE[colour])

    def make(self) -> None:
        """Make the folders; raises StackError where they cannot be or cannot be used."""
        closed = account.closed_ancestor(self.data_dir)
        if closed is not None:
            sentence = (
                "Postgres does not run as root, and the account that it runs as "
                f"(uid {account.UNPRIVILEGED_ID}) may not enter {closed}."
            )
            raise StackError(
                sentence, remedy=f"Choose a folder that it may enter: --data-dir {_FALLBACK}"
            )
        # The servers' account must get through to its own folders, and nobody
        # else has any business here.
        mode = 0o700 if account.for_servers() is None else 0o711
        try:
            if not self.data_dir.exists():
                self.data_dir.mkdir(parents=True)
                self.data_dir.chmod(mode)
            for folder in (self.shared, self.shared / "run", self.run.parent, self.run):
                if not folder.exists():
                    folder.mkdir(exist_ok=True)
                    folder.chmod(mode)
            for folder in (self.logs.parent, self.logs, self.shared_logs):
                folder.mkdir(exist_ok=True)
                if folder.stat().st_uid == os.geteuid():
                    folder.chmod(0o700)  # servers write into logs that are open already
        except OSError as error:
            sentence = f"The data folder {self.data_dir} cannot be created: {error.strerror}."
            raise StackError(sentence, remedy="Choose another with --data-dir.") from error
        if not os.access(self.run, os.W_OK):
            owner = self.run.stat(follow_symlinks=True).st_uid
            sentence = f"The data folder {self.data_dir} belongs to uid {owner}."
            raise StackError(sentence, remedy="Run as that user, or choose another --data-dir.")


def colour_of(name: str | None) -> Colour:
    """`name`, else RELAIS_COLOUR, else blue; raises UsageError for anything else."""
    chosen = name or os.environ.get("RELAIS_COLOUR") or COLOURS[0]
    if chosen not in COLOURS:
        sentence = f"There is no colour {chosen!r}."
        raise UsageError(sentence, remedy="Use blue or green.")
    return chosen


def find(
    data_dir: Path | None = None,
    colour: str | None = None,
    port_base: int | None = None,
) -> Layout:
    """The layout that the options, then the environment, then the defaults say."""
    chosen = colour_of(colour)
    base = PORT_BASE[chosen] if port_base is None else port_base
    if not 1 <= base <= _PORT_MAX - PORTS_PER_COLOUR:
        sentence = f"Port base {base} leaves no room for {PORTS_PER_COLOUR} ports."
        raise UsageError(sentence, remedy="Use a number from 1024 to 65525.")
    return Layout(_data_dir(data_dir), chosen, base)


def _data_dir(given: Path | None) -> Path:
    named = given or (Path(value) if (value := os.environ.get("RELAIS_DATA_DIR")) else None)
    folder = named.expanduser().absolute() if named else CHECKOUT / ".data"
    if folder.exists() and not stat.S_ISDIR(folder.stat().st_mode):
        sentence = f"The data folder {folder} is a file."
        raise UsageError(sentence, remedy="Choose another with --data-dir.")
    if named is None and account.closed_ancestor(folder) and not account.closed_ancestor(_FALLBACK):
        return _FALLBACK
    return folder
