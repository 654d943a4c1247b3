"""`relais chaos`: try to make Relais lose or repeat work, and check whether it did."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.cli.options import AsJson, DataDir


def chaos(
    *,
    seed: Annotated[int, typer.Option(help="The same seed plays the same faults and load.")] = 1,
    minutes: Annotated[float, typer.Option(min=0.1, max=1440, help="How long to run.")] = 5.0,
    faults: Annotated[
        str, typer.Option(help="Names, comma-separated.", show_default="all there are")
    ] = "",
    control: Annotated[
        bool, typer.Option("--control", help="The same on a plain Celery app, for comparison.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the history even if nothing went wrong.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> int:
    """Kill, freeze, cut and starve a private stack under load; then audit every job and mail.

    Exit code 0 only if nothing was lost, repeated or recorded wrongly; 0 always with --control.
    """
    from lab.chaos import command

    return command.run(
        command.Asked(
            seed=seed,
            minutes=minutes,
            faults=[name.strip() for name in faults.split(",") if name.strip()],
            as_json=as_json,
            is_control=control,
            is_kept=keep,
            data_dir=data_dir,
        )
    )
