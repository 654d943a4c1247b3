"""The Celery app and its settings: Redis carries doorbells, nothing that matters.

Each setting below closes a hole that Celery on Redis is known for; docs/reliability.md tells which.
"""

from __future__ import annotations

from queue import Empty
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu.entity import Queue
from kombu.transport.redis import Channel, Transport
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import RedisError

from runtime.errors import SettingsError
from tasks.kinds import QUEUES

if TYPE_CHECKING:
    from runtime.settings import Settings

CONNECT_TIMEOUT_S = 2.0
SOCKET_TIMEOUT_S = 10.0


class DoorbellChannel(Channel):  # Kombu has no types
    """Notices that a doorbell rang, and reads nothing of its content.

    Whoever can write to Redis can put anything into a queue. It is enough to know that something
    was there: the ledger tells what there is to do. Nothing is kept of what was popped either: a
    lost bell costs a second, a repeated one nothing.
    """

    do_restore = False
    ack_emulation = False  # no lists of unacknowledged messages, which anyone could corrupt

    def _brpop_read(self, **options: object) -> bool:
        try:
            try:
                heard = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            if not heard:
                raise Empty
            queue = bytes_to_str(heard[0])  # type: ignore[no-untyped-call]
            self._queue_cycle.rotate(queue)
            self.connection._deliver(_bell(), queue)  # noqa: SLF001 - as Kombu's own does
            return True
        finally:
            self._in_poll = None  # type: ignore[assignment]
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]

    def _receive_one(self, c: object) -> bool | None:
        """An invalid event is dropped: publishing one must not blind Flower to the others."""
        try:
            return super()._receive_one(c)  # type: ignore[no-untyped-call,no-any-return]
        except (Empty, RedisError, OSError):
            raise
        except Exception as error:
            raise Empty from error

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Direct queues are named by the sender: a table of bindings could only be corrupted."""
        if self.typeof(exchange).type == "fanout":  # type: ignore[no-untyped-call]
            super()._queue_bind(  # type: ignore[no-untyped-call]
                exchange, routing_key, pattern, queue
            )


def _bell() -> dict[str, Any]:
    return {"body": "", "headers": {}, "properties": {"delivery_tag": "bell", "delivery_info": {}}}


class DoorbellTransport(Transport):  # Kombu has no types
    """Any error with a doorbell counts as a broker that is down: reconnect.

    A Redis has many ways to refuse (it became a replica, cannot save, is loading, has no room, has
    forgotten us, has something else under the key of a queue). None of it is worth a worker, whose
    jobs come from the ledger.
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
        task_queues=[Queue(name, no_ack=True) for name in QUEUES],  # type: ignore[no-untyped-call]
        task_default_queue="template",
        task_create_missing_queues=False,
        task_protocol=2,
        # The real states come from the engine (workers/events.py), not from doorbells.
        worker_send_task_events=False,
        # No commands to workers through Redis.
        worker_enable_remote_control=False,
        worker_enable_prefetch_count_reduction=False,
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
        },
        event_queue_ttl=5.0,
        event_queue_expires=60.0,
        # Cancels nothing (Celery runs nothing here), and avoids a warning on each reconnect.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        enable_utc=True,
    )
    return app
