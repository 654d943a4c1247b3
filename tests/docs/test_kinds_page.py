"""The kind of docs/kinds.md, from the page into a running worker and gateway."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks import kinds
from tests import launcher
from tests.docs.pages import ROOT, blocks, run_curl
from tests.gateway.process import Gateway

PAGE = "docs/kinds.md"


@contextmanager
def worker_of(gateway: Gateway) -> Iterator[Path]:
    """A worker with the same settings; gives its log."""
    log = gateway.settings.data_dir / "worker.log"
    process = launcher.start("workers", "template", env=gateway.environment(), log=log)
    try:
        yield log
    finally:
        launcher.kill(process)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_ten_lines_become_a_kind(gateway: Gateway) -> None:
    job = run_curl(blocks(PAGE, "sh")[1], gateway)
    assert job["queue"] == "template"
    with worker_of(gateway) as log, gateway.client("producer", timeout=40) as client:
        done = client.get(f"/api/v1/jobs/{job['id']}", params={"wait": 30}).json()
        assert done["state"] == "succeeded", log.read_text()
        assert done["result"] == {"line": "A-17: 12.50 EUR"}


def test_the_page_lists_the_kinds_that_callers_may_use() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for kind in kinds.load().values():
        if not kind.internal and not kind.name.startswith("test."):
            assert f"| `{kind.name}` |" in text
            assert f"`{kind.queue}` |" in text
