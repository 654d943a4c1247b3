"""The reference says what the settings say; what is wrong is a sentence."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ops import configuration_reference
from runtime.settings import Settings


def test_the_reference_is_current() -> None:
    assert configuration_reference.main(["--check"]) == 0, (
        "run: python -m ops.configuration_reference"
    )


def test_every_setting_is_in_it_and_described() -> None:
    text = configuration_reference.rendered()
    for name, field in Settings.model_fields.items():
        assert f"`RELAIS_{name.upper()}`" in text
        assert field.description


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RELAIS_GATEWAY_PORT", "eighty"),
        ("RELAIS_RELAYS", "not json"),
        ("RELAIS_COLOUR", "purple"),
        ("RELAIS_LEASE_S", "-1"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(variable: str, value: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "workers.beat"],
        env={**os.environ, "PYTHONPATH": ".", variable: value},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(variable)
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
