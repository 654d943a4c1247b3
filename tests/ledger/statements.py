"""Every statement of the ledger, found rather than listed: named SQL, and constants of modules."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

from sqlalchemy import TextClause

import ledger
from ledger.statements import for_psycopg, load

_HAS_PLAN = re.compile(r"(\s*--.*\n)*\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\s")
_NAMED = re.compile(r"%\((\w+)\)s")
_POSITIONAL = re.compile(r"%s")


def every() -> dict[str, str]:
    """What has a plan, by name (`transitions.claim`, `liveness.bury`), as psycopg reads it."""
    found: dict[str, str] = {}
    for path in sorted(Path(ledger.__file__).parent.glob("*.sql")):
        found |= {f"{path.stem}.{name}": for_psycopg(clause) for name, clause in load(path).items()}
    for module in pkgutil.iter_modules(ledger.__path__, "ledger."):
        if module.ispkg:
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            short = f"{module.name.removeprefix('ledger.')}.{name}"
            if isinstance(value, TextClause):
                found[short] = for_psycopg(value)
            elif isinstance(value, str) and name.isupper():
                is_psycopg = "%(" in value or "%s" in value
                found[short] = _numbered(value) if is_psycopg else for_psycopg(TextClause(value))
    return {name: sql for name, sql in found.items() if _HAS_PLAN.match(sql)}


def parameters(sql: str) -> list[str]:
    """The names that `sql` binds, each once, in order."""
    return list(dict.fromkeys(_NAMED.findall(sql)))


def prepared(sql: str) -> str:
    """`sql` with `$1` for its first parameter, as Postgres prepares it."""
    places = {name: place for place, name in enumerate(parameters(sql), start=1)}
    return _NAMED.sub(lambda found: f"${places[found[1]]}", sql).replace("%%", "%")


def _numbered(sql: str) -> str:
    """`%s` in order as `%(p1)s`, `%(p2)s`."""
    numbers = iter(range(1, 100))
    return _POSITIONAL.sub(lambda _: f"%(p{next(numbers)})s", sql)
