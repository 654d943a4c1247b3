"""Wrong input is a sentence and exit code 2; help is fast; keys and jobs work."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tasks.outbound import signature
from tests.gateway.conftest import gateway, gateway_settings
from tests.gateway.process import Gateway
from tests.stack.cluster import CHECKOUT, Cluster

__all__ = ["gateway", "gateway_settings"]  # fixtures

TEMPLATE = {"template": "Hello"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["upp"], "No such command 'upp'. Did you mean 'up'?"),
        (["up", "--detatch"], "No such option: --detatch (Possible options: --detach)."),
        (["up", "--colour", "red"], "There is no colour 'red'. Use blue or green."),
        (["up", "--port-base", "65530"], "Port base 65530 leaves no room"),
        (["up", "--port-base", "many"], "Invalid value for '--port-base'"),
        (["up", "-d", "--only", "nothing"], "There is no service 'nothing'."),
        (["up", "--data-dir", ""], "Invalid value for '--data-dir': It is empty."),
        (["status", "please"], "unexpected extra argument"),
        (["key", "revoke", "rls_\udcff"], "The argument 'rls_\\udcff' is not UTF-8 text."),
        (["key", "revoke"], "Missing argument 'prefix'."),
        (["key", "create", "--expires-in", "soon"], "'soon' is not a duration."),
        (["jobs", "retri", "1"], "No such command 'retri'. Did you mean 'retry'?"),
        (["jobs"], "Missing command."),
        (["jobs", "show", "abc"], "'abc' is not a job id"),
        (["jobs", "cancel", "../keys"], "'../keys' is not a job id"),
        (["bench"], "Missing argument 'name'."),
        (["demo", "--recipients", "0"], "Invalid value for '--recipients'"),
    ],
)
def test_wrong_input(cluster: Cluster, words: list[str], sentence: str) -> None:
    done = cluster.run(*words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_what_needs_a_stack_says_how_to_start_one(cluster: Cluster) -> None:
    for words in (["jobs", "list"], ["key", "list"]):
        done = cluster.run(*words)
        assert done.returncode == 1
        assert "not up. Start it: ./relais up" in done.stderr


def test_a_log_that_does_not_exist_is_answered_with_the_nearest(cluster: Cluster) -> None:
    assert cluster.run("logs").returncode == 1
    cluster.up("redis")
    assert "Ready to accept connections" in cluster.run("logs", "redis").stdout
    done = cluster.run("logs", "rediss")
    assert done.returncode == 2
    assert "Did you mean redis?" in done.stderr


def test_help_loads_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from ops.cli.app import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "    assert main(['--help']) == 0\n"
        "assert 'doctor' in out.getvalue()\n"
        "heavy = {'celery', 'fastapi', 'sqlalchemy', 'psycopg', 'httpx', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_supervisor_loads_none_of_them_either() -> None:
    code = (
        "import sys, ops.stack.supervisor\n"
        "heavy = {'celery', 'fastapi', 'sqlalchemy', 'psycopg', 'httpx', 'pydantic', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_keys_are_made_listed_and_taken_back(cluster: Cluster, database_url: str) -> None:
    there = {"RELAIS_DATABASE_URL": database_url}
    made = cluster.run("key", "create", "--name", "n8n", "--role", "producer", "--json", **there)
    assert made.returncode == 0, made.stderr
    new = json.loads(made.stdout)
    assert new["key"].startswith(new["prefix"])
    listed = json.loads(cluster.run("key", "list", "--json", **there).stdout)["keys"]
    assert [(one["name"], one["role"], one["state"]) for one in listed] == [
        ("n8n", "producer", "valid")
    ]
    assert new["key"] not in cluster.run("key", "list", **there).stdout
    assert cluster.run("key", "revoke", new["prefix"], **there).returncode == 0
    listed = json.loads(cluster.run("key", "list", "--json", **there).stdout)["keys"]
    assert listed[0]["state"] == "revoked"
    again = cluster.run("key", "revoke", "rls_unknown", **there)
    assert again.returncode == 2
    wrong = cluster.run("key", "create", "--role", "king", **there)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


def test_a_role_that_does_not_reach_names_the_key_that_was_used(
    cluster: Cluster, gateway: Gateway
) -> None:
    """The README has the caller's key exported; operators' commands then use that one."""
    used = {"RELAIS_URL": gateway.url, "RELAIS_API_KEY": gateway.keys["producer"]}
    with gateway.client("producer") as client:
        job = client.post("/api/v1/jobs", json={"kind": "template.render", "payload": TEMPLATE})
    assert cluster.run("jobs", "list", **used).returncode == 0
    done = cluster.run("jobs", "retry", job.json()["id"], **used)
    assert done.returncode == 1
    assert "The role producer may not call POST" in done.stderr
    assert "The key came from RELAIS_API_KEY; with that unset" in done.stderr
    assert cluster.run("jobs", "cancel", job.json()["id"], **used).returncode == 0
    shown = cluster.run("jobs", "show", job.json()["id"], **used)
    assert "cancelled" in shown.stdout, shown.stderr


def test_the_secret_of_an_endpoint_is_shown(cluster: Cluster) -> None:
    masters = f"whsec_{'QUJD' * 8} whsec_{'QUJE' * 8}"
    there = {"RELAIS_CALLBACK_SECRET": masters}
    url = "https://n8n.example.com/webhook-waiting/17"
    shown = cluster.run("callback-secret", url, "--tenant", "acme", **there)
    expected = signature.endpoint_secrets(masters, tenant="acme", url=url)
    assert shown.stdout.split() == list(expected), shown.stderr
    told = json.loads(cluster.run("callback-secret", url, "--json", **there).stdout)
    assert (told["tenant"], told["endpoint"]) == ("default", "https://n8n.example.com")
    assert not set(told["secrets"]) & set(expected)
    wrong = cluster.run("callback-secret", "n8n.example.com", **there)
    assert wrong.returncode == 2
    assert "does not begin with http" in wrong.stderr


def test_doctor_answers_every_question_and_finds_an_open_secrets_file(cluster: Cluster) -> None:
    cluster.up("redis")
    done = cluster.run("doctor", "--json")
    assert done.returncode == 0, done.stdout
    checks = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert {"python", "disk", "data folder", "secrets", "clock", "redis", "redis server"} <= set(
        checks
    )
    (cluster.data / "secrets.json").chmod(0o644)
    done = cluster.run("doctor", "--json")
    assert done.returncode == 1
    found = {one["name"]: one for one in json.loads(done.stdout)["checks"]}["secrets"]
    assert not found["ok"]
    assert "chmod 600" in found["remedy"]
    cluster.down()
    ports = json.loads(cluster.run("doctor", "--json").stdout)["checks"]
    assert any(one["name"].startswith("port ") for one in ports)
