"""The code blocks of the documentation."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.gateway.process import Gateway

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```$", re.M | re.S)


def blocks(page: str, language: str) -> list[str]:
    """The blocks of one language in a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [found["code"] for found in _BLOCK.finditer(text) if found["language"] == language]


def run_curl(command: str, gateway: Gateway, *, role: str = "producer") -> Any:
    """What the gateway answers to a documented curl command, with the key of `role`."""
    environment = {
        **os.environ,
        "RELAIS_URL": gateway.url,
        "RELAIS_API_KEY": gateway.keys[role],
    }
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, check=True, text=True
    )
    return json.loads(done.stdout)
