"""The services of one colour and what each needs; the shared ones among them."""

from __future__ import annotations

import sys
from functools import partial
from signal import SIGINT
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ops.errors import UsageError
from ops.stack import health, presence, variables
from ops.stack import layout as places
from ops.stack.child import Command
from ops.stack.ports import LOOPBACK
from ops.stack.postgres import Postgres
from ops.stack.presence import Presence
from ops.stack.service import Place, Service
from ops.stack.valkey import Valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ops.stack.layout import Layout
    from ops.stack.variables import SharedPorts

QUEUES = ("critical", "template", "bulk", "vector", "callback")
SHARED = ("postgres", "inbox")
_INBOX_READS = ("RELAIS_LOG_LEVEL",)
_SCHEMA = ("postgres", "migrate")
# A worker gives what it runs this long to finish (RELAIS_GRACE_S) before it gives it back.
_GRACE_DEFAULT_S = 25.0
_GRACE_MARGIN_S = 10.0
_STORES, _ONCE, _PROCESSES = range(3)


class Catalogue:
    """Makes every Service of a colour from its layout, secrets and environment."""

    def __init__(
        self,
        layout: Layout,
        *,
        secrets: Mapping[str, str],
        shared: SharedPorts,
        user: Mapping[str, str],
    ) -> None:
        """`user` is the environment in which the stack was started."""
        self.variables = variables.of(layout, secrets=secrets, shared=shared, user=user)
        self._layout = layout
        self._secrets = secrets
        self._shared = shared
        self._user = user
        database = self.variables["RELAIS_DATABASE_URL"]
        foreign = self._external("RELAIS_DATABASE_URL")
        dial = presence.to_foreign_server if foreign else presence.to_own_server
        self._presence = Presence(dial(database), layout.colour)

    def services(self, only: Iterable[str] = ()) -> list[Service]:
        """All of them, or those named and what they need; raises UsageError for an unknown name."""
        workers = [self._worker(queue) for queue in QUEUES]
        every = [
            self._postgres(),
            self._redis(),
            self._inbox(),
            self._migrate(),
            self._admin_key(),
            *workers,
            self._beat(),
            self._gateway(),
            self._flower(),
        ]
        return _selected(every, tuple(only))

    def _postgres(self) -> Service:
        external = self._external("RELAIS_DATABASE_URL")
        server = Postgres(
            self._layout.shared / "postgres",
            self._shared.postgres,
            password=self._secrets["postgres_password"],
            superuser_password="",
        )
        return Service(
            place=self._place("postgres"),
            address=external or f"{LOOPBACK}:{server.port}",
            command=None if external else server.prepare,
            running=server.running_pid,
            healthy=lambda _pid, _age_s: self._presence.answers(),
            ports=(server.port,),
            # Killing a database because it answers slowly makes bad worse.
            restart_when_hung=False,
            stop_signal=SIGINT,
            grace_s=30.0,
            order=_STORES,
        )

    def _redis(self) -> Service:
        external = self._external("RELAIS_REDIS_URL")
        url = self.variables["RELAIS_REDIS_URL"]
        server = Valkey(
            self._layout.run / "redis",
            self._layout.port(places.REDIS),
            password=self._secrets["redis_password"],
        )
        return Service(
            place=self._place("redis"),
            address=external or f"{LOOPBACK}:{server.port}",
            command=None if external else server.prepare,
            healthy=lambda _pid, _age_s: health.redis(url),
            ports=(server.port,),
            order=_STORES,
        )

    def _inbox(self) -> Service:
        external = self._external("RELAIS_SMTP_URL")
        url = self.variables["RELAIS_SMTP_URL"]
        smtp, http = self._shared.inbox_smtp, self._shared.inbox_http
        # The same whichever colour starts it: the other one must be able to adopt it.
        common = {name: self.variables[name] for name in _INBOX_READS if name in self.variables}
        words = (
            *("ops.inbox", "--data-dir", str(self._layout.shared / "inbox")),
            *("--smtp-port", str(smtp), "--http-port", str(http)),
        )

        def healthy(_pid: int | None, _age_s: float) -> bool:
            return health.smtp(url) and (bool(external) or health.http(http, "/health"))

        return Service(
            place=self._place("inbox"),
            address=external or f"smtp {LOOPBACK}:{smtp}, http://{LOOPBACK}:{http}",
            command=None if external else self._python(*words, env=common),
            healthy=healthy,
            # Mail waits for a relay; nothing else does.
            optional=bool(external),
            ports=(smtp, http),
            order=_STORES,
        )

    def _migrate(self) -> Service:
        return Service(
            place=self._place("migrate"),
            command=self._python("ledger.migrate", "pre"),
            forked=True,
            needs=("postgres",),
            once=True,
            order=_ONCE,
        )

    def _admin_key(self) -> Service:
        return Service(
            place=self._place("admin-key"),
            command=self._python("ops.stack.admin_key"),
            forked=True,
            needs=_SCHEMA,
            once=True,
            order=_ONCE,
        )

    def _worker(self, queue: str) -> Service:
        grace_s = float(self.variables.get("RELAIS_GRACE_S", _GRACE_DEFAULT_S))
        return Service(
            place=self._place(f"worker-{queue}"),
            command=self._python("workers", queue),
            forked=True,
            healthy=self._present(queue),
            needs=_SCHEMA,
            after=("redis",),
            grace_s=grace_s + _GRACE_MARGIN_S,
            order=_PROCESSES,
        )

    def _beat(self) -> Service:
        return Service(
            place=self._place("beat"),
            command=self._python("workers.beat"),
            forked=True,
            healthy=self._present("beat"),
            needs=_SCHEMA,
            order=_PROCESSES,
        )

    def _gateway(self) -> Service:
        port = int(self.variables["RELAIS_GATEWAY_PORT"])
        return Service(
            place=self._place("gateway"),
            address=f"http://{LOOPBACK}:{port}",
            command=self._python("gateway"),
            forked=True,
            healthy=lambda _pid, _age_s: health.http(port, "/health/ready"),
            needs=_SCHEMA,
            ports=(port,),
            order=_PROCESSES,
        )

    def _flower(self) -> Service:
        port = int(self.variables["RELAIS_FLOWER_PORT"])
        return Service(
            place=self._place("flower"),
            address=f"http://{LOOPBACK}:{port}",
            command=self._python("workers.flower"),
            forked=True,
            healthy=lambda _pid, _age_s: health.http(port, "/healthcheck"),
            needs=("redis",),
            ports=(port,),
            order=_PROCESSES,
        )

    def _present(self, queue: str) -> Callable[[int | None, float], bool]:
        return lambda pid, age_s: self._presence.sees(queue, pid, age_max_s=age_s)

    def _python(self, *words: str, env: Mapping[str, str] | None = None) -> Callable[[], Command]:
        env = variables.for_process(self.variables if env is None else env)
        return partial(Command, (sys.executable, "-m", *words), env, None, str(places.CHECKOUT))

    def _external(self, variable: str) -> str:
        """Host and port of a service that the user runs; empty where the stack runs it."""
        url = self._user.get(variable, "")
        # Never the whole URL: it may hold a password, and this is shown.
        return (urlsplit(url).netloc.rpartition("@")[2] or f"({variable})") if url else ""

    def _place(self, name: str) -> Place:
        """Where a service's log and record are, by whether both colours use it."""
        layout = self._layout
        if name in SHARED:
            return Place(name, layout.shared_logs, layout.shared / "run", shared=True)
        return Place(name, layout.logs, layout.run, shared=False)


def _selected(every: list[Service], only: tuple[str, ...]) -> list[Service]:
    if not only:
        return every
    by_name = {service.name: service for service in every}
    unknown = [name for name in only if name not in by_name]
    if unknown:
        sentence = f"There is no service {unknown[0]!r}."
        raise UsageError(sentence, remedy=f"Use one of: {', '.join(by_name)}.")
    wanted = list(only)
    for name in wanted:
        service = by_name[name]
        wanted.extend(need for need in service.needs if need not in wanted)
    return [service for service in every if service.name in wanted]
