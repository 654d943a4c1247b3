"""`python -m workers.flower`: Flower, always with a password, and only to look.

A job's state is the ledger's, so Flower's own controls (revoke, send, shut down) are switched
off: they would promise what Celery cannot keep here. It keeps nothing on disk either: its store
is a pickle, and a window needs no memory.
"""

from __future__ import annotations

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
from flower.views.monitor import Metrics
from tornado.options import options

from runtime import logs
from runtime import settings as runtime_settings
from runtime.errors import RelaisError, SettingsError
from workers.broker import celery_app
from workers.doorbell import UNREACHABLE

if TYPE_CHECKING:
    from runtime.settings import Settings

JOBS_MAX = 10_000  # newest jobs that Flower remembers; some kilobytes each
FORGET_WORKERS_AFTER_S = 60
RECONNECT_S = 1.0
CONNECTIONS_MAX = 32
COLUMNS = "name,uuid,state,retries,received,started,runtime,worker"
log = logs.logger("flower")


class PatientEvents(Events):  # type: ignore[misc]  # Flower has no types
    """Flower's own waits twice as long after each failure, for ever: Redis back, Flower blind."""

    def run(self) -> None:
        """Receive events; after a lost connection, try again soon."""
        is_lost = False
        while True:
            try:
                with self.capp.connection_for_read() as connection:
                    receiver = EventReceiver(
                        connection, handlers={"*": self.on_event}, app=self.capp
                    )
                    if is_lost:
                        log.info("flower.events_back")
                        is_lost = False
                    receiver.capture(limit=None, timeout=None, wakeup=True)
            except UNREACHABLE as error:
                if not is_lost:
                    log.warning("flower.events_lost", error=type(error).__name__)
                is_lost = True
                time.sleep(RECONNECT_S)


class PrivateMetrics(Metrics):  # type: ignore[misc]  # Flower has no types
    """Flower answers /metrics to anybody; here it asks for the password too."""

    @tornado.web.authenticated
    async def get(self) -> None:
        """Flower's own numbers; those of Relais are the gateway's."""
        await super().get()


def build(settings: Settings) -> Flower:
    """The application, listening; SettingsError without a password."""
    password = settings.flower_password.get_secret_value()
    if not password:
        sentence = "RELAIS_FLOWER_PASSWORD is not set, and Flower never runs without a password."
        raise SettingsError(sentence, remedy="Set it, or start the local stack: ./relais up.")
    if not (password + settings.flower_user).isascii() or ":" in settings.flower_user:
        sentence = "RELAIS_FLOWER_USER or RELAIS_FLOWER_PASSWORD has characters Flower cannot take."
        raise SettingsError(sentence, remedy="Use ASCII, and no colon in the user's name.")
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
    # Each of Flower's eight concurrent questions holds one connection while it waits for another;
    # a pool smaller than that deadlocks.
    app.conf.broker_pool_limit = CONNECTIONS_MAX
    loop = tornado.ioloop.IOLoop.current()
    events = PatientEvents(app, io_loop=loop, max_tasks_in_memory=JOBS_MAX)
    flower = Flower(capp=app, options=options, events=events, io_loop=loop, **flower_settings)
    flower.add_handlers(r".*", [(r"/metrics", PrivateMetrics)])
    flower.start_http_server()
    return flower


def main() -> int:
    """Run from the command line; 2 where a setting is wrong, 1 where the port is taken."""
    try:
        settings = runtime_settings.load()
        logs.configure(service="flower", colour=settings.colour, level=settings.log_level)
        logging.getLogger("tornado.access").setLevel(logging.ERROR)
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
