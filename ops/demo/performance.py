"""The demo from beginning to end."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

from ops import stack
from ops.demo import balance, play, requests, show, target
from ops.demo.client import Client
from ops.demo.receiver import Receiver
from ops.errors import UsageError
from ops.stack import layout
from ops.stack.ports import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path

    from ops.demo.balance import Balance

RECIPIENTS_MAX = 1_000_000


def give(
    *,
    recipients: int,
    as_json: bool,
    data_dir: Path | None,
    colour: str | None,
    port_base: int | None,
) -> int:
    """See `ops.demo.run`."""
    if not 0 <= recipients <= RECIPIENTS_MAX:
        sentence = f"The demo cannot send to {recipients} recipients."
        raise UsageError(sentence, remedy=f"Use a number from 0 to {RECIPIENTS_MAX:,}.")
    place = stack.find(data_dir, colour, port_base)
    aim = target.bring_up(place)
    run = f"demo-{secrets.token_hex(4)}"
    trace_id = secrets.token_hex(16)
    callback_url = f"http://{LOOPBACK}:{place.port(layout.DEMO)}/{run}"
    story = requests.tell(run, recipients=recipients, callback_url=callback_url)
    started = time.monotonic()
    with (
        Receiver(place.port(layout.DEMO)) as receiver,
        Client(aim, traceparent=f"00-{trace_id}-{secrets.token_hex(8)}-01") as client,
    ):
        with show.Bar(story.jobs) as bar:
            accepted = play.hand_over(client, story, watch=bar.show)
            play.wait(client, story, receiver.callbacks, accepted=accepted, watch=bar.show)
        seconds = time.monotonic() - started
        found = balance.read(
            client,
            story,
            receiver.callbacks,
            accepted=accepted,
            secret=aim.callback_secret(callback_url),
            target=aim,
        )
    faults = found.faults(story)
    urls = {
        "gateway": aim.gateway_url,
        "docs": f"{aim.gateway_url}/docs",
        "flower": aim.flower_url,
        "inbox": aim.inbox_url,
    }
    if as_json:
        print(json.dumps(_as_json(found, seconds=seconds, urls=urls)))
    else:
        show.results(
            found,
            faults=faults,
            seconds=seconds,
            urls=urls,
            stop=place.command("down"),
            login=f"Flower's user is {aim.flower_user}; the keys are in {place.secrets}.",
            trace_id=trace_id,
        )
    return 1 if faults else 0


def _as_json(found: Balance, *, seconds: float, urls: dict[str, str]) -> dict[str, Any]:
    return {
        "accepted": found.accepted,
        "succeeded": found.count("succeeded"),
        "failed": found.count("failed"),
        "unknown": found.count("unknown"),
        "open": found.open,
        "messages_sent": found.messages_sent,
        "inbox": found.inbox,
        "duplicates": found.duplicates,
        "seconds": round(seconds, 2),
        "urls": urls,
    }
