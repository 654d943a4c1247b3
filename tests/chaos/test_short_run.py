"""A short run of the real harness: everything real, fewer faults, not quite two minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.chaos.checker import PROMISES

ROOT = Path(__file__).parents[2]
FAULTS = (
    "gateway_killed_before_commit", "accept_commit_reply_lost", "claim_commit_late",
    "finish_commit_reply_lost", "worker_killed_before_dot", "worker_killed_in_window",
    "worker_killed", "worker_term", "redis_killed", "redis_replica", "brpop_reply_swallowed",
    "postgres_crashed", "postgres_read_only", "smtp_drops_after_taking", "callback_500",
    "outcome_none", "outcome_surrogates", "outcome_huge", "outcome_base_exception",
    "template_surrogates", "cancelled_while_retrying", "retried_together", "wide_fan",
    "tenant_floods",
)  # fmt: skip


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not pytest's own folder: as root, Postgres runs under an account that may not enter that.
    with tempfile.TemporaryDirectory(prefix="relais-chaos-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def chaos(data_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RELAIS_")}
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", "chaos", *words, "--data-dir", str(data_dir)],
        cwd=ROOT,
        env=kept | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


@pytest.mark.timeout(420)
def test_a_short_run_keeps_every_promise(data_dir: Path) -> None:
    ended = chaos(
        data_dir, "--seed", "1", "--minutes", "0.8", "--faults", ",".join(FAULTS), "--json"
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    assert {name: found[name] for name in PROMISES} == dict.fromkeys(PROMISES, 0)
    assert found["kinds_not_met"] == []
    assert found["acknowledged"] == found["attempted"] > 100
    assert found["fault_kinds"] == len(FAULTS)
    assert 0 < found["neighbour_wait_p99_s"] < 5
    assert list((data_dir / "chaos").iterdir()) == []


def test_the_history_of_a_good_run_can_be_kept(data_dir: Path) -> None:
    ended = chaos(data_dir, "--minutes", "0.1", "--faults", "redis_flushed", "--keep", "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (history,) = (data_dir / "chaos").iterdir()
    assert ended.stderr.splitlines()[-1] == f"History: {history}"
    assert json.loads((history / "report.json").read_text()) == json.loads(ended.stdout)
    assert (history / "ledger.jsonl").stat().st_size > 0


def test_an_unknown_fault_is_a_sentence(data_dir: Path) -> None:
    ended = chaos(data_dir, "--faults", "earthquake")
    assert ended.returncode == 2
    assert ended.stderr.startswith("There is no fault 'earthquake'. There are: ")
