"""The environment in which isolated processes start."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import SecretStr

if TYPE_CHECKING:
    from runtime.settings import Settings

Role = Literal["function", "kind"]

_CHECKOUT = Path(__file__).resolve().parent.parent
_HARMLESS = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


def environment(role: Role, settings: Settings) -> dict[str, str]:
    """The environment variables that processes of `role` may see."""
    # A function works on callers' templates: no password is within its reach.
    known = {name: os.environ[name] for name in _HARMLESS if name in os.environ}
    if role == "kind":
        known = {**os.environ, **_as_variables(settings)}
    path = [str(_CHECKOUT), os.environ.get("PYTHONPATH", "")]
    return {
        **known,
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
        "PYTHONUTF8": "1",
    }


def _as_variables(settings: Settings) -> dict[str, str]:
    """The values set in `settings`, so that the child reads the same, wherever they came from."""
    variables: dict[str, str] = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
        elif isinstance(value, tuple):
            text = ",".join(value)
        elif isinstance(value, dict):
            text = json.dumps({key: secret.get_secret_value() for key, secret in value.items()})
        else:
            text = str(value)
        variables[f"RELAIS_{name.upper()}"] = text
    return variables
