"""Every log line of the source, found by reading it: action, level, fields, module."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("runtime", "ledger", "tasks", "doorbell", "workers", "gateway", "ops", "lab")
LEVELS = {"debug", "info", "warning", "error"}


@dataclass(frozen=True)
class Line:
    """One call of a logger."""

    action: str
    level: str
    fields: frozenset[str]
    unhashed: frozenset[str]  # those whose value is not logs.hashed(...)
    is_open: bool  # takes further fields by **
    where: str


def lines() -> list[Line]:
    """Every `log.<level>("action", field=...)` in the packages."""
    return [
        line
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
        for line in _of(file)
    ]


def _of(file: Path) -> list[Line]:
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
        ):
            continue
        owner = node.func.value
        name = (
            owner.id
            if isinstance(owner, ast.Name)
            else owner.attr
            if isinstance(owner, ast.Attribute)
            else ""
        )
        if name not in {"log", "_log"}:
            continue
        where = f"{file.relative_to(ROOT)}:{node.lineno}"
        first = node.args[0] if node.args else None
        assert isinstance(first, ast.Constant), f"{where}: the action of a log line is a literal"
        assert isinstance(first.value, str), where
        assert len(node.args) == 1, f"{where}: fields are keyword arguments"
        fields = {
            keyword.arg: keyword.value
            for keyword in node.keywords
            if keyword.arg and keyword.arg != "exc_info"
        }
        unhashed = frozenset(name for name, value in fields.items() if not _is_hashed(value))
        is_open = any(keyword.arg is None for keyword in node.keywords)
        found.append(Line(first.value, node.func.attr, frozenset(fields), unhashed, is_open, where))
    return found


def _is_hashed(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) in {"logs.hashed", "hashed"}
