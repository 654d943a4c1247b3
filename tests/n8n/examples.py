"""The example workflows, as the proof imports them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "n8n" / "examples"
DEFAULT_URL = "http://127.0.0.1:8080"
CREDENTIAL_ID = "relais-api-key"

Workflow = dict[str, Any]


def files() -> list[Path]:
    """Every example."""
    return sorted(FOLDER.glob("*.json"))


def load(*, relais_url: str) -> list[Workflow]:
    """Every example; only the address in its Settings node is another."""
    return [
        json.loads(file.read_text().replace(json.dumps(DEFAULT_URL), json.dumps(relais_url)))
        for file in files()
    ]


def credential(api_key: str) -> dict[str, Any]:
    """What a user types in for *Relais API key*, as n8n imports it."""
    return {
        "id": CREDENTIAL_ID,
        "name": "Relais API key",
        "type": "httpHeaderAuth",
        "data": {"name": "Authorization", "value": f"Bearer {api_key}"},
    }
