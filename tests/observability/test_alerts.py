"""Rules, documentation and code name the same metrics."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from runtime import metrics, telemetry
from tests.observability.actions import PACKAGES, ROOT

DEPLOY = ROOT / "deploy" / "prometheus"
NAME = re.compile(r"\brelais_[a-z_]+\b")


def gauges() -> set[str]:
    """Gauges are written where the gateway reads the ledger."""
    return {
        name
        for file in (ROOT / "gateway").rglob("*.py")
        for name in re.findall(r"Gauge\(\s*\"(relais_[a-z_]+)\"", file.read_text(encoding="utf-8"))
    }


def exposed() -> set[str]:
    return {
        metric.name if metric.bounds else f"{metric.name}_total" for metric in metrics.METRICS
    } | gauges()


def test_every_metric_is_in_the_documentation_and_nothing_else() -> None:
    text = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    assert set(NAME.findall(text)) == exposed()


def test_rules_ask_for_metrics_that_exist() -> None:
    for file in DEPLOY.glob("*.yml"):
        named = {
            re.sub(r"_(bucket|count|sum)$", "", name)
            for name in NAME.findall(file.read_text(encoding="utf-8"))
        }
        assert named <= exposed(), file.name


def test_every_alert_is_explained() -> None:
    alerts = re.findall(r"alert: (\w+)", (DEPLOY / "relais.rules.yml").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    assert alerts == re.findall(r"^\| `(Relais\w+)`", text, re.MULTILINE)


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)
def test_the_rules_do_what_they_say() -> None:
    subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"],
        cwd=DEPLOY,
        check=True,
        capture_output=True,
    )
    subprocess.run(
        ["promtool", "test", "rules", "relais.tests.yml"],
        cwd=DEPLOY,
        check=True,
        capture_output=True,
    )


def test_attributes_of_spans_are_on_the_list() -> None:
    """What is not on the list is left out silently: a wrong name here would never be seen."""
    unknown = set()
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            if "telemetry" not in text:
                continue
            for block in re.findall(r"attributes=\{([^}]*)\}", text):
                unknown |= {
                    f"{file.name}: {name}"
                    for name in re.findall(r"\"([\w.]+)\":", block)
                    if name not in telemetry.ATTRIBUTES
                }
            for block in re.findall(r"span\.set\(([^)]*)\)", text):
                unknown |= {
                    f"{file.name}: {name}"
                    for name in re.findall(r"\b(\w+)=", block)
                    if name not in telemetry.ATTRIBUTES
                }
    assert unknown == set()
