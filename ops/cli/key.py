"""`relais key`: API keys, created and revoked directly in the ledger."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ops.cli import screen
from ops.cli.options import AsJson, Colour, DataDir

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=False)

Tenant = Annotated[str, typer.Option(help="Whose keys.")]
_Result = TypeVar("_Result")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@app.command("create")
def create(
    *,
    name: Annotated[str, typer.Option(help="What it is for; shown in lists.")] = "unnamed",
    role: Annotated[str, typer.Option(help="producer, viewer, operator or admin.")] = "producer",
    tenant: Tenant = "default",
    expires_in: Annotated[
        str | None, typer.Option(help="Time until it expires: 90d, 12h, 30m.", show_default="never")
    ] = None,
    rate_per_s: Annotated[
        float | None,
        typer.Option(min=0.001, help="Requests per second.", show_default="the default"),
    ] = None,
    colour: Colour = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Create a key and print it; it is not shown again."""
    from ledger import api_keys
    from ledger.errors import InvalidKey
    from ops.errors import UsageError

    life_s = None if expires_in is None else duration_s(expires_in)

    async def work(connection: AsyncConnection) -> api_keys.NewKey:
        try:
            return await api_keys.create(
                connection,
                tenant=tenant,
                name=name,
                role=role,
                expires_in_s=life_s,
                rate_per_s=rate_per_s,
            )
        except InvalidKey as error:
            raise UsageError(error.sentence, remedy=error.remedy) from error

    made = _in_ledger(work, colour=colour, data_dir=data_dir)
    if as_json:
        print(json.dumps({"key": made.key, "prefix": made.prefix, "id": str(made.id)}))
    else:
        print(made.key)
    return 0


@app.command("list")
def list_keys(
    *,
    tenant: Tenant = "default",
    colour: Colour = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """List keys, by their prefix."""
    from ledger import api_keys

    rows = _in_ledger(
        lambda connection: api_keys.list_all(connection, tenant=tenant),
        colour=colour,
        data_dir=data_dir,
    )
    shown = [
        {
            "prefix": row.prefix,
            "name": row.name,
            "role": row.role,
            "state": "revoked" if row.revoked_at else "expired" if row.is_expired else "valid",
            "created_at": row.created_at.isoformat(timespec="seconds"),
            "expires_at": row.expires_at.isoformat(timespec="seconds") if row.expires_at else None,
            "last_used_at": (
                row.last_used_at.isoformat(timespec="seconds") if row.last_used_at else None
            ),
        }
        for row in rows
    ]
    if as_json:
        print(json.dumps({"keys": shown}, indent=2))
        return 0

    from ops.cli import listing

    listing.show(shown, empty=f"{tenant} has no keys. Create one: ./relais key create --name n8n")
    return 0


@app.command("revoke")
def revoke(
    prefix: Annotated[str, typer.Argument(help="The key's first characters, as in the list.")],
    *,
    tenant: Tenant = "default",
    colour: Colour = None,
    data_dir: DataDir = None,
) -> int:
    """Revoke a key permanently."""
    from ledger import api_keys
    from ops.errors import UsageError

    found = _in_ledger(
        lambda connection: api_keys.revoke(connection, tenant=tenant, prefix=prefix),
        colour=colour,
        data_dir=data_dir,
    )
    if not found:
        sentence = f"{tenant} has no key that begins with {prefix}."
        raise UsageError(sentence, remedy="See ./relais key list.")
    print(screen.visible(f"{prefix} is revoked."))
    return 0


def duration_s(text: str) -> float:
    """Seconds of `90d`, `12h`, `30m`, `45s`; raises UsageError for anything else."""
    from ops.errors import UsageError

    number, unit = text[:-1], text[-1:]
    if unit in _UNITS_S and number.isascii() and number.isdigit():
        return float(number) * _UNITS_S[unit]
    sentence = f"{text!r} is not a duration."
    raise UsageError(sentence, remedy="Use a number and a unit: 90d, 12h, 30m, 45s.")


def _in_ledger(
    work: Callable[[AsyncConnection], Awaitable[_Result]],
    *,
    colour: str | None,
    data_dir: os.PathLike[str] | None,
) -> _Result:
    """Run `work` in one transaction on the stack's database, or on RELAIS_DATABASE_URL."""
    from pathlib import Path

    from sqlalchemy.exc import OperationalError

    from ledger import database
    from ops.errors import OpsError
    from ops.stack import control, find
    from runtime import settings

    if not os.environ.get("RELAIS_DATABASE_URL"):
        os.environ.update(control.environment(find(Path(data_dir) if data_dir else None, colour)))

    async def run() -> _Result:
        engine = database.engine(settings.load(), pool_size=1, name="relais-key")
        try:
            async with engine.begin() as connection:
                return await work(connection)
        finally:
            await engine.dispose()

    try:
        return asyncio.run(run())
    except OperationalError as error:
        sentence = f"Postgres does not respond: {str(error.orig).splitlines()[0]}"
        raise OpsError(sentence, remedy="See ./relais status.") from error
