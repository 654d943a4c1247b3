"""The OpenAPI document is kept: schemathesis throws at every operation what it can think of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from gateway.openapi import kind_names
from gateway.routes.jobs import WAIT_MAX_S
from tasks import kinds

if TYPE_CHECKING:
    from tests.gateway.process import Gateway

BUDGET_S = 60


@pytest.mark.timeout(BUDGET_S + 4 * WAIT_MAX_S)
def test_every_operation_keeps_its_word(gateway: Gateway, tmp_path: Path) -> None:
    """No 5xx; statuses, types, headers and bodies as documented; wrong data and keys refused."""
    # A batch with one good job is taken, and says what is wrong with the others.
    (tmp_path / "schemathesis.toml").write_text(
        # A template that is longer than its schema allows may be longer than any body may be, too.
        "[checks.negative_data_rejection]\n"
        "expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]\n"
        '[[operations]]\ninclude-path = "/api/v1/jobs/batch"\n'
        "checks.negative_data_rejection.enabled = false\n"
    )
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{gateway.url}/openapi.json",
            "--header",
            f"X-API-Key: {gateway.keys['admin']}",
            "--max-time",
            str(BUDGET_S),
            "--seed",
            os.environ.get("RELAIS_TEST_FUZZ_SEED", "1"),  # what fails one run fails the next
            "--request-timeout",
            str(WAIT_MAX_S + 15),
            "--continue-on-failure",
            "--no-color",
            "--warnings",
            "off",
            # What a kind, a cron expression or an address may be is more than a schema can say.
            "--exclude-checks",
            "positive_data_acceptance",
            # Its 503 is an answer, not a failure; it has tests of its own.
            "--exclude-path",
            "/health/ready",
            # It would revoke the key that it calls with.
            "--exclude-path",
            "/api/v1/keys/{prefix}",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


def test_it_names_the_kinds(gateway: Gateway) -> None:
    document = httpx.get(f"{gateway.url}/openapi.json").json()
    named = document["components"]["schemas"]["JobRequest"]["properties"]["kind"]["enum"]
    # Other tests of this process may have registered kinds that the gateway does not know.
    ours = {name for name in kind_names() if kinds.load()[name].handler.__module__[:6] == "tasks."}
    assert ours >= {"email.send", "template.render", "workflow.trigger"}
    assert set(named) >= ours
    assert not {"relais.canary", "http.callback"} & set(named)
