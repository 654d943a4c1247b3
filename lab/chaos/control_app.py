"""The control: mail from a plain Celery app on Redis, written as people write it.

Late acknowledgement, automatic retries with backoff, `countdown` for delays, smtplib in the task.
"""

from __future__ import annotations

import os
import smtplib
import urllib.error
import urllib.request
from email.message import EmailMessage

from celery import Celery

app = Celery("control", broker=os.environ.get("CONTROL_REDIS_URL", "redis://127.0.0.1:1/0"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=4,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_hijack_root_logger=False,
)
RETRIES = 8
TIMEOUT_S = 5.0


@app.task(  # type: ignore[untyped-decorator]
    name="control.send",
    autoretry_for=(smtplib.SMTPException, OSError),
    retry_backoff=1,
    retry_backoff_max=8,
    max_retries=RETRIES,
)
def send(recipients: list[str], callback_url: str | None) -> None:
    """Send one mail to everybody, then call back."""
    host, _, port = os.environ["CONTROL_SMTP"].partition(":")
    message = EmailMessage()
    message["From"] = "control@example.org"
    message["To"] = ", ".join(recipients)
    message["Subject"] = "Order"
    message.set_content("It is on its way.")
    with smtplib.SMTP(host, int(port), timeout=TIMEOUT_S) as relay:
        relay.send_message(message)
    if callback_url is not None:
        request = urllib.request.Request(callback_url, data=b"{}", method="POST")  # noqa: S310
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 - our recorder
            pass
