"""`relais bench`: measure, beside a peer in the same run."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.cli.options import AsJson


def bench(
    name: Annotated[str, typer.Argument(help="What to measure: jobs, intake.")],
    *,
    as_json: AsJson = False,
) -> int:
    """Measure Relais beside a bare Celery on this machine."""
    from ops import bench as benches

    return benches.run(name, as_json=as_json)
