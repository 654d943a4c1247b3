"""`relais_kinds` is what kinds of other people import: its names stay, and are enough."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import relais_kinds
from runtime.settings import Settings
from runtime.version import VERSION
from tests.docs.pages import ROOT

NAMES = {
    "Backoff", "Cancelled", "Context", "ErrorReport", "Failed", "Outcome", "RetryLater", "Snooze",
    "Succeeded", "TaskError", "Unknown", "kind",
}  # fmt: skip
PARAMETERS = {
    "name", "payload", "queue", "max_attempts", "timeout_s", "backoff", "internal", "lane",
    "requires", "hears_out",
}  # fmt: skip
USERS_OWN = """
from pydantic import BaseModel

from relais_kinds import Backoff, Context, Failed, Outcome, RetryLater, Succeeded, kind


class Invoice(BaseModel):
    number: str


@kind("invoice.print", payload=Invoice, queue="bulk", backoff=Backoff(base_s=1.0))
def print_invoice(invoice: Invoice, context: Context) -> Outcome:
    if not invoice.number:
        return Failed("it has no number")
    if context.tries_left:
        return RetryLater("later", 2.0)
    return Succeeded({"number": invoice.number})
"""


def test_the_names_are_those_that_were_promised() -> None:
    assert set(relais_kinds.__all__) == NAMES
    assert all(getattr(relais_kinds, name) is not None for name in NAMES)
    assert set(inspect.signature(relais_kinds.kind).parameters) == PARAMETERS
    assert (Path(relais_kinds.__file__).parent / "py.typed").exists()


def test_a_kind_of_a_users_own_is_typed_strictly(tmp_path: Path) -> None:
    module = tmp_path / "invoices.py"
    module.write_text(USERS_OWN)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", str(module)],
        cwd=ROOT,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_the_version_is_said_once() -> None:
    assert Settings().version == VERSION
    assert VERSION in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert (
        'version = "' not in (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[tool")[0]
    )
