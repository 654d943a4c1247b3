from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.n8n import examples, install

ROOT = Path(__file__).parents[2]
IDS = [file.stem for file in examples.files()]


@pytest.fixture(params=examples.files(), ids=IDS)
def text(request: pytest.FixtureRequest) -> str:
    file: Path = request.param
    return file.read_text()


def test_there_are_examples() -> None:
    assert IDS == ["bulk-with-wait", "on-failure", "send-one-mail", "verified-callback"]


def test_they_are_built_of_nodes_that_every_n8n_has(text: str) -> None:
    workflow = json.loads(text)
    assert isinstance(workflow["id"], str)
    assert workflow["active"] is False
    assert {node["type"].partition(".")[0] for node in workflow["nodes"]} == {"n8n-nodes-base"}
    names = [node["name"] for node in workflow["nodes"]]
    assert len(set(names)) == len(names)
    ends = {
        end["node"]
        for outputs in workflow["connections"].values()
        for output in outputs["main"]
        for end in output
    }
    assert ends | set(workflow["connections"]) <= set(names)


def test_every_request_is_traced_and_authenticated_and_safe_to_repeat(text: str) -> None:
    requests = [node for node in json.loads(text)["nodes"] if node["type"].endswith(".httpRequest")]
    assert requests
    for node in requests:
        parameters = node["parameters"]
        headers = {header["name"] for header in parameters["headerParameters"]["parameters"]}
        assert parameters["genericAuthType"] == "httpHeaderAuth"
        assert node["credentials"]["httpHeaderAuth"]["id"] == examples.CREDENTIAL_ID
        assert "traceparent" in headers
        assert parameters["method"] == "GET" or "Idempotency-Key" in headers


def test_they_hold_no_secret_and_only_example_addresses(text: str) -> None:
    assert not re.search(r"rk_[A-Za-z0-9]{8}|whsec_[A-Za-z0-9]|Bearer [A-Za-z0-9_]{8}", text)
    domains = set(re.findall(r"[\w.+-]+@([\w-]+(?:\.[\w-]+)+)", text))
    assert domains <= {"example.org"}


def test_the_address_is_in_one_place(text: str) -> None:
    assert text.count(examples.DEFAULT_URL) == 1


@pytest.mark.timeout(1800)
def test_a_real_n8n_runs_them() -> None:
    if os.environ.get("RELAIS_TEST_N8N") != "1":
        pytest.skip("set RELAIS_TEST_N8N=1 to run the proof (installs n8n: minutes, 1.7 GB)")
    assert install.node()
    done = subprocess.run([sys.executable, "-m", "tests.n8n.prove"], cwd=ROOT, check=False)
    assert done.returncode == 0
