"""The names and sizes of files: the field's words, and nothing too long to read."""

from __future__ import annotations

import subprocess

import pytest

from tests.docs.pages import ROOT

LINES_MAX = 400
# Each has a name that the field gives it; docs/architecture.md has the map.
PRIVATE = frozenset(
    [
        "coroner",
        "reconcile",
        "pulse",
        "watch",
        "keyring",
        "edge",
        "refusals",
        "answers",
        "slots",
        "pace",
        "outbox",
        "firing",
        "frames",
        "books",
        "letter",
        "mime",
        "settlement",
        "verdict",
        "vault",
        "room",
        "keeper",
        "board",
        "stand",
        "gather",
        "witness",
        "house",
    ]
)


def files(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an unpacked archive has no list of files")
def test_no_file_is_too_long_to_read() -> None:
    lengths = {
        name: len((ROOT / name).read_text(encoding="utf-8").splitlines())
        for name in files("*.py", "*.sql", "*.sh", "relais")
    }
    assert len(lengths) > 300
    assert {name: lines for name, lines in lengths.items() if lines > LINES_MAX} == {}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an unpacked archive has no list of files")
def test_no_file_has_a_private_word_for_a_name() -> None:
    names = files("*.py", "*.sql")
    stems = {
        name: name.rpartition("/")[2].removeprefix("test_").partition(".")[0] for name in names
    }
    assert {name for name, stem in stems.items() if stem in PRIVATE} == set()
