"""The Celery app and its settings: Redis carries doorbells, nothing that matters.

Each setting below closes a hole that Celery on Redis is known for; docs/reliability.md tells which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import Celery
from kombu.entity import Queue
from kombu.transport.redis import Channel, Transport

from runtime.errors import SettingsError
from tasks.kinds import QUEUES

if TYPE_CHECKING:
    from runtime.settings import Settings

CONNECT_TIMEOUT_S = 2.0
SOCKET_TIMEOUT_S = 10.0


class DoorbellChannel(Channel):  # Kombu has no types
    """Does not put back what it popped: a lost bell costs a second, a repeated one nothing.

    Kombu would try, while it cleans up after a connection that is gone, and end the worker by that.
    """

    do_restore = False


class DoorbellTransport(Transport):  # Kombu has no types
    """Whatever goes wrong with a doorbell is a broker that is away: connect again.

    A Redis has many ways to refuse (it became a replica, cannot save, is loading, has no room, has
    forgotten us), and whoever can write to it can put anything into a queue. None of it is worth a
    worker, whose jobs come from the ledger.
    """

    Channel = DoorbellChannel
    connection_errors = (Exception,)


def celery_app(settings: Settings) -> Celery:
    """An app that speaks JSON on direct queues and keeps no results."""
    url = settings.redis_url.get_secret_value()
    if not url:
        message = "RELAIS_REDIS_URL is not set."
        raise SettingsError(message, remedy="Set it, or start the local stack: ./relais up.")
    app = Celery("relais", broker=url, set_as_current=False)
    app.conf.update(
        # JSON only: whoever can write to Redis must not be able to run code.
        accept_content=["json"],
        task_serializer="json",
        event_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        # Doorbells are acknowledged early: a lost one costs a second, a repeated one nothing.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=64,
        task_queues=[Queue(name) for name in QUEUES],  # type: ignore[no-untyped-call]
        task_default_queue="template",
        task_create_missing_queues=False,
        task_protocol=2,
        # True states come from the engine (workers/events.py), not from doorbells.
        worker_send_task_events=False,
        task_send_sent_event=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_transport=f"{__name__}:{DoorbellTransport.__name__}",
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=CONNECT_TIMEOUT_S,
        broker_pool_limit=4,
        broker_transport_options={
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "visibility_timeout": 3600,
        },
        control_queue_ttl=60.0,
        control_queue_expires=60.0,
        event_queue_ttl=5.0,
        event_queue_expires=60.0,
        # Cancels nothing of ours (what is acknowledged early), and saves a warning a reconnect.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        enable_utc=True,
    )
    return app
