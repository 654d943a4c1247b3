"""`relais bench`: measure, compared with a peer in the same run."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.cli.options import AsJson


def bench(
    name: Annotated[
        str, typer.Argument(help="What to measure: jobs, intake, claim, fair, horizon, upgrade.")
    ],
    *,
    minutes: Annotated[
        float, typer.Option(min=0.5, max=1440, help="horizon: the length of each half.")
    ] = 10.0,
    rate: Annotated[
        int, typer.Option(min=1, max=100_000, help="horizon: jobs per second.")
    ] = 1_000,
    batch: Annotated[int, typer.Option(min=1, max=1_000, help="horizon: jobs per POST.")] = 1,
    flood: Annotated[
        int, typer.Option(min=1, max=100_000_000, help="fair: jobs of the flooding tenant.")
    ] = 1_000_000,
    jobs: Annotated[
        int, typer.Option(min=1, max=100_000_000, help="upgrade: jobs in the old ledger.")
    ] = 1_000_000,
    gateways: Annotated[int, typer.Option(min=1, max=64, help="intake: gateway processes.")] = 1,
    as_json: AsJson = False,
) -> int:
    """Measure Relais here, compared with Celery and Dramatiq, or with itself undisturbed."""
    from lab import bench as benches

    options = benches.Options(
        minutes=minutes, rate=rate, batch=batch, flood=flood, jobs=jobs, gateways=gateways
    )
    return benches.run(name, as_json=as_json, options=options)
