from __future__ import annotations

import re

from ledger.models.jobs import State
from ledger.statements import TRANSITIONS
from tasks.kinds import QUEUES
from tests.docs.pages import ROOT, blocks

PAGE = "docs/concepts.md"
STATES = "|".join(State)


def drawn() -> set[tuple[str, str]]:
    (diagram,) = (block for block in blocks(PAGE, "mermaid") if "stateDiagram" in block)
    return set(re.findall(rf"^\s+({STATES}) --> ({STATES})$", diagram, re.M))


def written() -> set[tuple[str, str]]:
    """The changes that the described statements make."""
    names = ("transitions.sql", "consequences.sql")
    text = "".join((ROOT / "ledger" / name).read_text(encoding="utf-8") for name in names)
    found: set[tuple[str, str]] = set()
    for line in re.findall(r"^-- ([^\n]* -> [^\n]*)", text, re.M):
        before, after = line.split(" -> ")
        sources = re.findall(rf"\b({STATES})\b", before)
        targets = re.findall(rf"\b({STATES})\b", re.split(r"[:;(]|, after|, with", after)[0])
        found |= {(source, target) for source in sources for target in targets}
    return found


def test_the_diagram_shows_every_change_and_no_other() -> None:
    assert TRANSITIONS  # the files that are read above are those that run
    assert drawn() == written()


def test_every_state_and_queue_is_explained() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for state in State:
        assert f"| `{state}` |" in text
    for queue in QUEUES:
        assert f"`{queue}`" in text


def test_the_files_that_are_named_exist() -> None:
    for page in [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]:
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} -> {link}"
