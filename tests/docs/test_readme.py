from __future__ import annotations

import re
import shlex
import shutil

import pytest

from ops.cli.app import app
from tests.docs.pages import ROOT, blocks, run_curl
from tests.gateway.process import Gateway

PAGE = "README.md"
PAGES = [
    PAGE,
    "UPGRADING.md",
    *(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")),
]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_command_hands_a_job_over_once(gateway: Gateway) -> None:
    (curl,) = (block for block in blocks(PAGE, "sh") if block.startswith("curl"))
    first, second = run_curl(curl, gateway), run_curl(curl, gateway)
    assert first["kind"] == "email.send"
    assert first["queue"] == "critical"
    assert first["state"] == "ready"
    assert second["id"] == first["id"]


def test_the_kind_is_the_one_that_docs_kinds_explains_and_its_test_runs() -> None:
    assert blocks(PAGE, "python") == blocks("docs/kinds.md", "python")[:1]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists(page: str) -> None:
    known = {command.name for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            for found in re.findall(r"(?<![\w/])\./relais ([^)#|&;]+)", line):
                assert shlex.split(found)[0] in known, found
    text = (ROOT / page).read_text(encoding="utf-8")
    for word in re.findall(r"`\./relais ([a-z-]+)", text):
        assert word in known


def test_every_page_of_docs_is_in_the_table() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in text


def test_nothing_tells_of_this_machine() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(work|root|home)/", text), page.name
