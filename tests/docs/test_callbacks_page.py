from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tasks.callbacks import SCHEDULE_S, SELDOM_CHANGE, SELDOM_CHANGE_TRIES
from tasks.outbound import signature
from tests.docs.pages import ROOT, blocks

PAGE = "docs/callbacks.md"
SECRET = "whsec_" + base64.b64encode(os.urandom(32)).decode()
BODY = '{"data":{"text":"Grüße"},"type":"job.succeeded"}'.encode()


def signed_headers(secret: str = SECRET, *, age_s: int = 0) -> dict[str, str]:
    return signature.headers_of(
        message_id="msg_1",
        body=BODY,
        secrets=signature.secrets_of(f"whsec_{'QUJD' * 8} {secret}"),
        timestamp=int(time.time()) - age_s,
    )


# Signed when the test runs: in a long run its collection is too long ago for the check.
CASES: list[tuple[Callable[[], dict[str, str]], bytes, bool]] = [
    (signed_headers, BODY, True),
    (signed_headers, BODY + b" ", False),
    (partial(signed_headers, "whsec_" + "eHl6" * 8), BODY, False),
    (partial(signed_headers, age_s=600), BODY, False),
]


@pytest.mark.parametrize(("sign", "body", "is_genuine"), CASES)
def test_the_python_example(
    sign: Callable[[], dict[str, str]], body: bytes, is_genuine: bool
) -> None:
    headers = sign()
    (code,) = blocks(PAGE, "python")
    namespace: dict[str, Any] = {}
    exec(code, namespace)  # noqa: S102 - the page's own code
    if is_genuine:
        namespace["verify"](SECRET, headers, body)
    else:
        with pytest.raises(ValueError):
            namespace["verify"](SECRET, headers, body)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.parametrize(("sign", "body", "is_genuine"), CASES)
def test_the_code_node_example(
    sign: Callable[[], dict[str, str]], body: bytes, is_genuine: bool
) -> None:
    headers = sign()
    (code,) = blocks(PAGE, "javascript")
    program = (
        f"const $input = {{ first: () => ({{ json: {{ headers: {json.dumps(headers)} }} }}) }};"
        f"const helpers = {{ getBinaryDataBuffer: async () => Buffer.from({json.dumps(base64.b64encode(body).decode())}, 'base64') }};"
        f"(async function () {{ {code.replace('whsec_...', SECRET)} }}).call({{ helpers }})"
        ".then((items) => console.log(JSON.stringify(items)))"
    )
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == is_genuine, done.stderr
    if is_genuine:
        assert json.loads(done.stdout) == [{"json": json.loads(BODY)}]


def test_the_tables_say_what_the_code_does() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert f"{', '.join(str(status) for status in sorted(SELDOM_CHANGE))}, any 3xx" in text
    assert SELDOM_CHANGE_TRIES == 5
    assert sum(SCHEDULE_S[: SELDOM_CHANGE_TRIES - 1]) < 15 * 60
    assert len(SCHEDULE_S) + 1 == 10
    assert "5 s, 30 s, 2 min, 10 min, 1 h, 4 h, 12 h, 24 h and 24 h" in text
