"""What runs before a commit and on a hosted machine is what `.ci/run` runs."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT


def test_hooks_run_nothing_that_ci_run_does_not() -> None:
    ci_run = (ROOT / ".ci/run").read_text("utf-8").replace('"$bin/', ".venv/bin/").replace('"', "")
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    entries = re.findall(r"^ +entry: (.+)$", hooks, re.MULTILINE)
    assert entries
    for entry in entries:
        assert entry in ci_run


def test_the_hosted_checks_are_ci_run_with_each_python_that_is_promised() -> None:
    workflow = (ROOT / ".github/workflows/checks.yml").read_text("utf-8")
    assert re.findall(r"^ +- run: (.+)$", workflow, re.MULTILINE) == [".ci/run"]
    # Without it ./relais takes a Python that the machine has anyway.
    assert "RELAIS_PYTHON: python${{ matrix.python }}" in workflow
    assert "RELAIS_PYTHON" in (ROOT / "relais").read_text("utf-8")
    oldest = re.search(r'requires-python = ">=(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert oldest
    assert f'python: ["{oldest[1]}", ' in workflow
