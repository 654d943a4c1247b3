"""What docs/templates.md shows works as it stands there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx

from gateway import template_request
from ledger import defaults
from tasks.email.payload import SUBJECT_MAX, Email
from tasks.templates import sandbox, variables
from tests.docs.pages import ROOT, blocks, run_curl

if TYPE_CHECKING:
    from tests.gateway.process import Gateway

PAGE = "docs/templates.md"


def test_the_examples_work(gateway: Gateway) -> None:
    create, set_footer = blocks(PAGE, "sh")
    assert run_curl(create, gateway, role="operator")["version"] == 1
    assert run_curl(set_footer, gateway, role="operator")["variable"] == "footer"
    (job,) = (json.loads(block) for block in blocks(PAGE, "json"))
    email = Email.model_validate(job["payload"])
    answer = httpx.post(
        f"{gateway.url}/api/v1/templates/{email.template}/preview",
        json={"variables": email.variables},
        headers=gateway.headers("producer"),
    ).json()
    assert answer["text"] == "Hello Ada\n\nExample Ltd, 1 High Street"
    assert answer["error"] is None


def test_the_limits_are_those_of_the_code() -> None:
    limits = (ROOT / PAGE).read_text(encoding="utf-8").split("## Limits")[1]
    assert f"{SUBJECT_MAX:,} characters; {template_request.SOURCE_MAX_CHARS:,} each" in limits
    assert f"| declared variables | {variables.COUNT_MAX} |" in limits
    assert f"{template_request.VALUE_MAX_BYTES:,} bytes as JSON" in limits
    assert f"| default values of a tenant | {defaults.COUNT_MAX:,} |" in limits
    megabytes = sandbox.OUTPUT_MAX_BYTES >> 20
    assert f"{sandbox.CPU_MAX_S:g} s; {megabytes} MiB" in limits
