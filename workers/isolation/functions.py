"""The pure functions that may be run in a killable process of their own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

FUNCTIONS = {
    "render": ("tasks.templates.sandbox", "render_fields"),
    "compile": ("tasks.templates.markup", "compile_parts"),
    "diff": ("tasks.templates.difference", "differences"),
}


def load(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function registered as `name`: JSON object in, JSON object out."""
    module, attribute = FUNCTIONS[name]
    function: Callable[[dict[str, Any]], dict[str, Any]] = getattr(
        importlib.import_module(module), attribute
    )
    return function
