"""`relais jobs`: list and control jobs through the gateway, like any other client."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ops.cli import screen
from ops.cli.options import AsJson, Colour, DataDir

app = typer.Typer(help="Jobs: list, show, retry, cancel.", no_args_is_help=False)

JobId = Annotated[str, typer.Argument(help="The job's id.")]
_EXAMPLE = "0196a5b2-7c1e-7d5a-9b1f-3c2d1e0f9a8b"
_TIMEOUT_S = 30.0
_OTHER_KEY = (
    "The key came from RELAIS_API_KEY; with that unset, the local stack's own admin key is used."
)
_SHOWN = ("id", "kind", "queue", "state", "attempt", "created_at")


@app.command("list")
def list_jobs(
    *,
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only jobs of this queue.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only jobs of this kind.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with this tag.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 20,
    colour: Colour = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Show jobs, newest first."""
    wanted = {"state": state, "queue": queue, "kind": kind, "tag": tag, "limit": limit}
    filters = {name: value for name, value in wanted.items() if value is not None}
    answer = _call("GET", "/api/v1/jobs", colour=colour, data_dir=data_dir, params=filters)
    if as_json:
        print(json.dumps(answer, indent=2))
        return 0

    from ops.cli import listing

    rows = [{name: job.get(name) for name in _SHOWN} for job in answer["jobs"]]
    listing.show(rows, empty="No jobs match.")
    return 0


@app.command("show")
def show(
    job_id: JobId, *, colour: Colour = None, data_dir: DataDir = None, as_json: AsJson = False
) -> int:
    """Show one job and its history."""
    path = _path(job_id)
    job = _call("GET", path, colour=colour, data_dir=data_dir)
    events = _call("GET", f"{path}/events", colour=colour, data_dir=data_dir)
    if as_json:
        print(json.dumps({**job, **events}, indent=2))
        return 0

    from ops.cli import listing

    callbacks = job.pop("callbacks", [])
    fields = [{"field": name, "value": _plain(value)} for name, value in job.items() if value]
    listing.show(fields, empty="")
    if callbacks:
        print("Callbacks:")
        listing.show(
            [{name: _plain(value) for name, value in one.items()} for one in callbacks], empty=""
        )
    told = {name for one in events["events"] for name, value in one.items() if value is not None}
    rows = [
        {name: _plain(value) for name, value in one.items() if name in told}
        for one in events["events"]
    ]
    listing.show(rows, empty="It has no history yet.")
    return 0


@app.command("retry")
def retry(job_id: JobId, *, colour: Colour = None, data_dir: DataDir = None) -> int:
    """Run a failed, cancelled or unknown job again."""
    return _order(job_id, "retry", colour=colour, data_dir=data_dir)


@app.command("cancel")
def cancel(job_id: JobId, *, colour: Colour = None, data_dir: DataDir = None) -> int:
    """Cancel a job, or ask a running one to stop."""
    return _order(job_id, "cancel", colour=colour, data_dir=data_dir)


def _order(job_id: str, verb: str, *, colour: str | None, data_dir: Path | None) -> int:
    job = _call("POST", f"{_path(job_id)}/{verb}", colour=colour, data_dir=data_dir)
    print(screen.visible(f"{job['id']} is {job['state']}."))
    return 0


def _call(
    method: str,
    path: str,
    *,
    colour: str | None,
    data_dir: Path | None,
    params: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The gateway's response; raises OpsError or UsageError with its message."""
    import httpx

    from ops.errors import OpsError, UsageError

    address, key = _gateway(colour, data_dir)
    headers = {"Authorization": f"Bearer {key}"}
    try:
        answer = httpx.request(
            method, f"{address}{path}", params=params, headers=headers, timeout=_TIMEOUT_S
        )
    except httpx.HTTPError as error:
        sentence = f"The gateway at {address} does not respond: {error}."
        raise OpsError(sentence, remedy="See ./relais status.") from error
    if answer.is_error:
        sentence, remedy = _problem(answer)
        kind = UsageError if answer.status_code in {400, 404, 409, 422} else OpsError
        if answer.status_code in {401, 403} and os.environ.get("RELAIS_API_KEY"):
            remedy = f"{remedy} {_OTHER_KEY}".strip()
        raise kind(sentence, remedy=remedy)
    content: dict[str, Any] = answer.json()
    return content


def _problem(answer: Any) -> tuple[str, str]:  # noqa: ANN401 - an httpx.Response, imported where it is used
    """What the gateway says is wrong, and what to do about it."""
    try:
        told = answer.json()
    except ValueError:
        told = {}
    sentence = told.get("detail") or told.get("title")
    return (
        str(sentence or f"The gateway responded with {answer.status_code}."),
        str(told.get("remedy") or ""),
    )


def _gateway(colour: str | None, data_dir: Path | None) -> tuple[str, str]:
    """Address and key: RELAIS_URL and RELAIS_API_KEY, else those of the running stack."""
    address, key = os.environ.get("RELAIS_URL"), os.environ.get("RELAIS_API_KEY")
    if address and key:
        return address.rstrip("/"), key
    from ops.stack import control, find, secrets

    place = find(data_dir, colour)
    running = control.environment(place)
    own = f"http://{running['RELAIS_GATEWAY_HOST']}:{running['RELAIS_GATEWAY_PORT']}"
    return (address or own).rstrip("/"), key or secrets.read(place.secrets)["admin_key"]


def _path(job_id: str) -> str:
    """The path of a job; raises UsageError where the id cannot be one."""
    from uuid import UUID

    from ops.errors import UsageError

    try:
        return f"/api/v1/jobs/{UUID(job_id)}"
    except ValueError:
        sentence = f"{job_id[:80]!r} is not a job id; ids look like {_EXAMPLE}."
        raise UsageError(sentence, remedy="See ./relais jobs list.") from None


def _plain(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
