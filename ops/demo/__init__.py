"""The demo: n8n-shaped requests against the local stack, and a final tally that adds up.

- `target.py`    the stack: what is up, or brought up now
- `requests.py`  what is asked for
- `client.py`    the gateway and the inbox over HTTP
- `receiver.py`  where its callback goes
- `play.py`      hands everything over and watches it finish
- `performance.py` all of it, in order
- `balance.py`   counts both sides and judges
- `show.py`      what a person sees of it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def run(
    *,
    recipients: int = 1000,
    as_json: bool = False,
    data_dir: Path | None = None,
    colour: str | None = None,
    port_base: int | None = None,
) -> int:
    """Play the demo with `recipients` bulk mails; 0: everything adds up, 1: it does not.

    Raises UsageError for a wrong number, StackError where the stack does not come up.
    """
    from ops.demo import performance  # noqa: PLC0415 - httpx and rich only where they are used

    return performance.give(
        recipients=recipients,
        as_json=as_json,
        data_dir=data_dir,
        colour=colour,
        port_base=port_base,
    )
