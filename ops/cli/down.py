"""`relais down`: stop the local stack, last started first."""

from __future__ import annotations

from ops.cli.options import Colour, DataDir


def down(*, colour: Colour = None, data_dir: DataDir = None) -> int:
    """Stop the local stack. Postgres and the inbox stay while the other colour uses them."""
    from ops.cli import screen
    from ops.stack import control, find
    from ops.stack.layout import COLOURS

    console = screen.console()
    place = find(data_dir, colour)
    if control.down(place, say=lambda name: console.print(f"stopped {name}", style="dim")):
        console.print(f"{place.colour} is down.")
    else:
        console.print(f"{place.colour} is not running in {place.data_dir}.", soft_wrap=True)
    for other in COLOURS:
        if other != place.colour and control.is_running(place.other(other)):
            console.print(
                f"{other} is up; to stop it: {place.other(other).command('down')}", soft_wrap=True
            )
    return 0
