"""`python -m ops.configuration_reference`: writes docs/configuration.md from runtime/settings.py.

With `--check` it writes nothing and exits 1 where the file is not current.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from runtime import settings as runtime_settings
from runtime.settings import Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

FILE = Path(__file__).parents[1] / "docs" / "configuration.md"
_GROUP = re.compile(r"^    # (?P<title>[A-Za-z][\w ]+)$")
_FIELD = re.compile(r"^    (?P<name>[a-z][a-z0-9_]*): ")
COLUMNS = "| variable | default | meaning |\n|---|---|---|\n"
HEAD = """\
# Configuration

<!-- Written by `python -m ops.configuration_reference` from runtime/settings.py. -->

Every process reads its settings once, at startup, from environment variables. Durations are
seconds, sizes are bytes. An invalid setting ends the process with one sentence that names it.
`./relais up` sets what the local stack needs; your own values take precedence.
"""
OPENTELEMETRY = {
    "`OTEL_EXPORTER_OTLP_ENDPOINT`": "OTLP/HTTP receiver for traces, metrics and logs, "
    "such as `http://host:4318`.",
    "`OTEL_EXPORTER_OTLP_HEADERS`, `_TIMEOUT`, `_COMPRESSION`, `_CERTIFICATE`": "As specified by "
    "OpenTelemetry.",
    "`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `_METRICS_`, `_LOGS_`": "A receiver for one signal, "
    "with its path; signals without an endpoint are not exported.",
    "`OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER`, `OTEL_LOGS_EXPORTER`": "`none`: this signal "
    "is not exported.",
    "`OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG`": "The SDK's samplers, "
    "such as `parentbased_traceidratio` and a ratio: how many of the traces that start in "
    "Relais are exported. A caller's own decision is respected.",
    "`OTEL_PROPAGATORS`": "How a trace is read from requests to the gateway and written into "
    "Relais' own requests; default `tracecontext`. Between processes a job carries only the "
    "`traceparent`, without baggage.",
    "`OTEL_METRIC_EXPORT_INTERVAL`": "Milliseconds between exports of metrics; default 15000.",
    "`OTEL_BSP_MAX_QUEUE_SIZE`, `OTEL_BSP_SCHEDULE_DELAY`": "Most spans held back, and "
    "milliseconds between exports of spans; defaults 16384 and 1000.",
    "`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`": "Who exports; they override Relais' own, "
    "such as the service name `relais-gateway` or `relais-worker-bulk`.",
    "`OTEL_SDK_DISABLED`": "`true`: export nothing.",
}
TAIL = """
## OpenTelemetry

The standard variables are honoured; nothing is exported unless an endpoint is set.

| variable | meaning |
|---|---|
"""


def rendered() -> str:
    """The whole file."""
    parts = [HEAD]
    for title, names in _groups().items():
        parts.append(f"\n## {title[:1].upper()}{title[1:]}\n\n{COLUMNS}")
        parts += [_row(name, Settings.model_fields[name]) for name in names]
    return "".join(parts) + TAIL + "".join(f"| {k} | {v} |\n" for k, v in OPENTELEMETRY.items())


def main(arguments: list[str]) -> int:
    """Write the file, or check it; 2 for an unknown argument."""
    if arguments not in ([], ["--check"]):
        print("The only argument is --check.", file=sys.stderr)
        return 2
    current = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
    if arguments:
        if current != rendered():
            print(
                "docs/configuration.md is not current. Run: python -m ops.configuration_reference",
                file=sys.stderr,
            )
            return 1
        return 0
    FILE.write_text(rendered(), encoding="utf-8")
    return 0


def _groups() -> dict[str, list[str]]:
    """Names of settings under the comment that stands above them in the source."""
    groups: dict[str, list[str]] = {}
    title = ""
    for line in Path(runtime_settings.__file__).read_text(encoding="utf-8").splitlines():
        if group := _GROUP.match(line):
            title = group["title"]
        elif (field := _FIELD.match(line)) and field["name"] in Settings.model_fields:
            groups.setdefault(title, []).append(field["name"])
    return groups


def _row(name: str, field: FieldInfo) -> str:
    meaning = (field.description or "").replace("|", "\\|")
    allowed = getattr(field.annotation, "__args__", ())
    if allowed and all(isinstance(value, str) for value in allowed):
        meaning += f" One of {', '.join(f'`{value}`' for value in allowed)}."
    return f"| `RELAIS_{name.upper()}` | {_default(field)} | {meaning} |\n"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value in ("", (), {}, None) or value is PydanticUndefined:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:g}`" if value < 1e6 else f"`{value:.0f}`"
    return f"`{value}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
