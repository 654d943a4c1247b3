"""The `RELAIS_*` variables that the processes of one colour get; what the user set wins."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.stack import layout as places
from ops.stack import postgres
from ops.stack.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ops.stack.layout import Layout

# Where an n8n beside this stack listens: the local default must be able to call it back. And the
# demo, while it runs; never the inbox, whose mails belong to all tenants.
_N8N = ("127.0.0.1:5678", "localhost:5678")


@dataclass(frozen=True, slots=True)
class SharedPorts:
    """Ports of the services that both colours use: those of the colour that came first."""

    postgres: int
    inbox_smtp: int
    inbox_http: int


def of(
    layout: Layout,
    *,
    secrets: Mapping[str, str],
    shared: SharedPorts,
    user: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """Every `RELAIS_*` variable, defaults of the local stack first, the user's over them."""
    database = (
        f"postgresql://{postgres.USER}:{secrets['postgres_password']}"
        f"@{LOOPBACK}:{shared.postgres}/{postgres.DATABASE}"
    )
    defaults = {
        "RELAIS_DATABASE_URL": database,
        "RELAIS_REDIS_URL": (
            f"redis://:{secrets['redis_password']}@{LOOPBACK}:{layout.port(places.REDIS)}/0"
        ),
        "RELAIS_SMTP_URL": f"smtp://{LOOPBACK}:{shared.inbox_smtp}?policy=at_least_once",
        "RELAIS_GATEWAY_HOST": LOOPBACK,
        "RELAIS_GATEWAY_PORT": str(layout.port(places.GATEWAY)),
        "RELAIS_INBOX_URL": f"http://{LOOPBACK}:{shared.inbox_http}",
        "RELAIS_FLOWER_PORT": str(layout.port(places.FLOWER)),
        "RELAIS_FLOWER_USER": "relais",
        "RELAIS_FLOWER_PASSWORD": secrets["flower_password"],
        "RELAIS_CALLBACK_SECRET": secrets["callback_secret"],
        "RELAIS_OUTBOUND_ALLOW": ",".join((*_N8N, f"{LOOPBACK}:{layout.port(places.DEMO)}")),
    }
    chosen = {name: value for name, value in user.items() if name.startswith("RELAIS_") and value}
    # The command line was asked after the environment: these two are settled.
    settled = {"RELAIS_COLOUR": layout.colour, "RELAIS_DATA_DIR": str(layout.data_dir)}
    return {**defaults, **chosen, **settled}


def for_process(relais: Mapping[str, str]) -> dict[str, str]:
    """A whole environment for a Python process of the stack."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RELAIS_")}
    return {**others, **relais, "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"}


def python_path() -> str:
    """The checkout, then whatever the user's own kinds are found by."""
    return os.pathsep.join(filter(None, (str(places.CHECKOUT), os.environ.get("PYTHONPATH"))))
