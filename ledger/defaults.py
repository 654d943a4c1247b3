"""Values of variables that callers leave out: of a template, of a tenant, of everybody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from ledger import statements
from ledger.errors import WrongState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection

SQL = statements.load(Path(__file__).with_suffix(".sql"))
COUNT_MAX = 5_000  # of one tenant, and of everybody


@dataclass(frozen=True, slots=True)
class Default:
    """A value; `tenant` None: for everybody; `template` '': in every template."""

    id: int
    tenant: str | None
    template: str
    variable: str
    value: Any
    used: int
    changed_at: datetime
    changed_by: str


async def put(
    connection: AsyncConnection,
    *,
    tenant: str | None,
    template: str,
    variable: str,
    value: object,
    by: str,
) -> Default:
    """Set the value; raises WrongState where there are COUNT_MAX already."""
    place = {"tenant": tenant, "template": template, "variable": variable}
    values = {**place, "value": to_json(value).decode(), "by": by}
    made = _default((await connection.execute(SQL["put"], values)).one())
    count = (await connection.execute(SQL["count"], {"tenant": tenant})).scalar_one()
    if count > COUNT_MAX:
        message = f"There are {COUNT_MAX:,} defaults already."
        raise WrongState(message, remedy="Delete those that are never used.")
    return made


async def remove(
    connection: AsyncConnection, *, tenant: str | None, template: str, variable: str
) -> bool:
    """Forget the value; False where there is none."""
    place = {"tenant": tenant, "template": template, "variable": variable}
    return (await connection.execute(SQL["remove"], place)).first() is not None


async def list_all(
    connection: AsyncConnection,
    *,
    tenant: str,
    template: str | None,
    after: tuple[str, int],
    limit: int,
) -> list[Default]:
    """One page of a tenant's and everybody's, behind the variable and id `after`.

    `template` None: of all templates.
    """
    values = {
        "tenant": tenant,
        "template": template,
        "after": after[0],
        "after_id": after[1],
        "limit": limit,
    }
    return [_default(row) for row in await connection.execute(SQL["list"], values)]


async def look_up(
    connection: AsyncConnection, *, tenant: str, template: str, variables: Sequence[str]
) -> list[Default]:
    """What is set for these variables of a template, the nearest first.

    Of the template, of the tenant, of everybody for a template of this name, of everybody.
    """
    values = {"tenant": tenant, "template": template, "variables": list(variables)}
    return [_default(row) for row in await connection.execute(SQL["look_up"], values)]


async def count_uses(connection: AsyncConnection, uses: Mapping[int, int]) -> None:
    """Add to how often each (by id) was used."""
    rows = [{"id": key, "uses": count} for key, count in uses.items()]
    await connection.execute(SQL["count_uses"], {"rows": to_json(rows).decode()})


def _default(row: Row[Any]) -> Default:
    return Default(**row._asdict())
