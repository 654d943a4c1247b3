"""`python -m workers.flower`: Flower, always with a password, and read-only.

A job's state is the ledger's, so Flower's own controls (revoke, send, shut down) are switched
off: they would promise what Celery cannot keep here. It keeps nothing on disk either: its store
is a pickle, and a window needs no memory.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import tornado.ioloop
import tornado.web
from celery.events import EventReceiver
from flower.app import Flower
from flower.events import Events
from flower.urls import settings as flower_settings
from flower.views import BaseHandler
from flower.views.monitor import Metrics
from tornado.options import options

from doorbell.broker import celery_app
from runtime import logs
from runtime import settings as runtime_settings
from runtime.errors import RelaisError, SettingsError
from tasks import preflight

if TYPE_CHECKING:
    from runtime.settings import Settings

JOBS_MAX = 10_000  # newest jobs that Flower remembers; some kilobytes each
FORGET_WORKERS_AFTER_S = 60
RECONNECT_S = 1.0
NUMBER_MAX = 1e12  # clocks, seconds and process ids of real events are far below
COLUMNS = "name,uuid,state,retries,received,started,runtime,worker"
log = logs.logger("flower")


class PatientReceiver(EventReceiver):  # type: ignore[misc]  # Celery has no types
    """Drops invalid events: anyone who can write to Redis can publish anything."""

    def get_consumers(self, consumer: Any, channel: Any) -> list[Any]:  # noqa: ANN401 - Kombu's
        """Like Celery's own, but silent about messages that it cannot read."""
        (own,) = super().get_consumers(consumer, channel)
        own.on_decode_error = self._drop
        return [own]

    def on_consume_ready(self, *_: object, **__: object) -> None:
        """Celery's own asks workers for a heartbeat; ours accept no commands, and beat anyway."""

    def _receive(self, body: Any, message: Any, **_: object) -> None:  # noqa: ANN401 - any JSON
        for event in body if isinstance(body, list) else [body]:
            if is_event(event):
                self.process(*self.event_from_message(event))
            else:
                self._drop(message, None)

    def _drop(self, _message: object, error: Exception | None) -> None:
        log.debug("flower.event_dropped", error=type(error).__name__ if error else None)


def is_event(event: object) -> bool:
    """Whether this has the shape of a Celery event."""
    if not isinstance(event, dict):
        return False
    numbers = ("clock", "utcoffset", "pid", "timestamp", "local_received", "runtime", "freq")
    name, host = event.get("type"), event.get("hostname")
    return (
        isinstance(name, str)
        and name.partition("-")[0] in {"task", "worker"}
        and isinstance(host, str)
        and all(_is_number(event.get(field, 0)) for field in numbers)
        and (not name.startswith("task-") or isinstance(event.get("uuid"), str))
    )


def _is_number(value: object) -> bool:
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_one and abs(value) < NUMBER_MAX  # type: ignore[arg-type]  # also false for NaN


class PatientEvents(Events):  # type: ignore[misc]  # Flower has no types
    """Flower's own doubles its wait after each failure without limit, and stays blind too long."""

    def run(self) -> None:
        """Receive events; after a lost connection, try again soon."""
        is_lost = False
        while True:
            try:
                with self.capp.connection_for_read() as connection:
                    receiver = PatientReceiver(
                        connection, handlers={"*": self.on_event}, app=self.capp
                    )
                    if is_lost:
                        log.info("flower.events_back")
                        is_lost = False
                    receiver.capture(limit=None, timeout=None, wakeup=True)
            except Exception as error:  # noqa: BLE001 - whatever Redis says, Flower listens again
                if not is_lost:
                    log.warning("flower.events_lost", error=type(error).__name__)
                is_lost = True
                time.sleep(RECONNECT_S)


class PrivateMetrics(Metrics):  # type: ignore[misc]  # Flower has no types
    """Flower serves /metrics to anyone; here it requires the password too."""

    @tornado.web.authenticated
    async def get(self) -> None:
        """Flower's own metrics; those of Relais are at the gateway."""
        await super().get()


class WorkerPage(BaseHandler):  # type: ignore[misc]  # Flower has no types
    """Flower's own would ask the worker over Redis, where workers accept no commands."""

    @tornado.web.authenticated
    async def get(self, _name: str) -> None:
        """The list of workers shows everything that is known of one."""
        self.redirect(self.reverse_url("workers"))


class OnlyListening(Flower):  # type: ignore[misc]  # Flower has no types
    """Shows the events that workers send, and asks them nothing."""

    def update_workers(self, workername: str | None = None) -> asyncio.Future[None]:
        """Nothing to wait for."""
        del workername
        done: asyncio.Future[None] = self.io_loop.asyncio_loop.create_future()
        done.set_result(None)
        return done


def require_login(settings: Settings) -> str:
    """The password; SettingsError if there is none, or one that Flower cannot use."""
    password = settings.flower_password.get_secret_value()
    if not password:
        sentence = "RELAIS_FLOWER_PASSWORD is not set, and Flower never runs without a password."
        raise SettingsError(sentence, remedy="Set it, or start the local stack: ./relais up.")
    if not (password + settings.flower_user).isascii() or ":" in settings.flower_user:
        sentence = (
            "RELAIS_FLOWER_USER or RELAIS_FLOWER_PASSWORD has characters that Flower cannot use."
        )
        raise SettingsError(sentence, remedy="Use ASCII, and no colon in the user's name.")
    return password


def build(settings: Settings) -> Flower:
    """The application, listening; SettingsError without a password."""
    password = require_login(settings)
    # Set here rather than on a command line, where every user of the machine could read it.
    chosen: dict[str, Any] = {
        "address": settings.flower_host,
        "port": settings.flower_port,
        "basic_auth": [f"{settings.flower_user}:{password}"],
        "max_tasks": JOBS_MAX,
        "purge_offline_workers": FORGET_WORKERS_AFTER_S,
        "tasks_columns": COLUMNS,
        "read_only": True,
        "persistent": False,
    }
    for name, value in chosen.items():
        setattr(options, name, value)
    app = celery_app(settings)
    loop = tornado.ioloop.IOLoop.current()
    events = PatientEvents(app, io_loop=loop, max_tasks_in_memory=JOBS_MAX, enable_events=False)
    flower = OnlyListening(
        capp=app, options=options, events=events, io_loop=loop, **flower_settings
    )
    flower.add_handlers(r".*", [(r"/metrics", PrivateMetrics), (r"/worker/(.+)", WorkerPage)])
    flower.start_http_server()
    return flower


def main() -> int:
    """Run from the command line; 2 if a setting is wrong, 1 if the port is in use."""
    try:
        settings = runtime_settings.load()
        logs.configure(service="flower", colour=settings.colour, level=settings.log_level)
        logging.getLogger("tornado.access").setLevel(logging.ERROR)
        require_login(settings)
        preflight.require(settings, preflight.REDIS)
        flower = build(settings)
    except RelaisError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(
            f"Flower cannot listen on port {settings.flower_port}: {error.strerror}.\n"
        )
        return 1

    def stop(*_: object) -> None:
        flower.io_loop.add_callback_from_signal(flower.stop)

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, stop)
    log.info("flower.started", host=settings.flower_host, port=settings.flower_port)
    flower.start()
    log.info("flower.stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
