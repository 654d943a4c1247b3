"""The stack that a run talks to: what is up already, or what this run brings up."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ops.errors import StackError
from ops.stack import control, report, secrets
from tasks.outbound import signature

if TYPE_CHECKING:
    from ops.stack.layout import Layout


@dataclass(frozen=True, slots=True)
class Target:
    """Addresses and keys of one running colour."""

    gateway_url: str
    inbox_url: str
    flower_url: str
    flower_user: str
    database_url: str = field(repr=False)
    api_key: str = field(repr=False)
    callback_masters: str = field(repr=False)  # RELAIS_CALLBACK_SECRET

    def callback_secret(self, url: str) -> str:
        """What the receiver at `url` verifies the default tenant's callbacks with."""
        return signature.endpoint_secrets(self.callback_masters, tenant="default", url=url)[0]


def bring_up(place: Layout) -> Target:
    """Start what is not running, wait until it is healthy, and say where it is.

    Raises StackError where it does not come up, or where mail goes to a relay of the
    user's instead of the local inbox: nothing could be counted there.
    """
    if os.environ.get("RELAIS_SMTP_URL") and not control.is_running(place):
        raise _elsewhere(place)
    if not control.is_running(place):
        print("Starting the stack ...", file=sys.stderr)
    control.up(place, watch=control.telling(lambda line: print(line, file=sys.stderr)))
    variables = control.environment(place)
    urls = report.make(place)["urls"]
    api_key = secrets.read(place.secrets).get("admin_key")
    if "inbox" not in urls:
        raise _elsewhere(place)
    if not api_key:
        sentence = f"{place.secrets} contains no admin key."
        raise StackError(
            sentence, remedy=f"Restart it: {place.command('down')} && {place.command('up')}"
        )
    return Target(
        gateway_url=urls["gateway"],
        inbox_url=urls["inbox"],
        flower_url=urls["flower"],
        flower_user=variables["RELAIS_FLOWER_USER"],
        database_url=variables["RELAIS_DATABASE_URL"],
        api_key=api_key,
        callback_masters=variables["RELAIS_CALLBACK_SECRET"],
    )


def _elsewhere(place: Layout) -> StackError:
    sentence = "Mail goes to the relay in RELAIS_SMTP_URL, not to the local inbox."
    return StackError(sentence, remedy=f"Unset it, {place.command('down')}, and try again.")
