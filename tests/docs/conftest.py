from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.settings import Settings
from tests.docs.pages import ROOT, blocks
from tests.gateway.process import Gateway, settings_for


@pytest.fixture
def gateway(settings: Settings, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that knows the kind of docs/kinds.md."""
    (tmp_path / "invoices.py").write_text(blocks("docs/kinds.md", "python")[0])
    made = Gateway(
        settings_for(
            database_url=settings.database_url.get_secret_value(),
            redis_url=settings.redis_url.get_secret_value(),
            data_dir=tmp_path,
        ),
        extra={"RELAIS_KINDS": "invoices", "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
    )
    made.keys = {role: made.make_key(role) for role in ("producer", "operator")}
    made.start()
    yield made
    made.stop()
