"""JSON logs, one object per line on stderr, each with a stable `action`.

`docs/logs.md` lists every action with its level and fields; a test holds both together.
Addresses and bodies never appear: use `hashed()` where a line must be tied to a recipient.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from runtime.redaction import redacted

_CONTEXT: dict[str, str] = {}
_trace_ids: list[Callable[[], tuple[str, str] | None]] = []


def as_fields(record: logging.LogRecord) -> dict[str, Any]:
    """The content of `record`, ready for JSON: action, fields, and the error with its traceback."""
    action = getattr(record, "action", None)
    line: dict[str, Any] = {"action": action or "library.message"}
    if action is None:
        line["message"] = redacted(record.getMessage())
    line.update(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        line["error"] = type(error).__name__
        line["error_message"] = redacted(str(error))
        line["traceback"] = redacted("".join(traceback.format_exception(error)))
    return line


class JsonFormatter(logging.Formatter):
    """One JSON object per record: at, level, service, colour, process, logger, action ...."""

    def format(self, record: logging.LogRecord) -> str:
        """`record` as one line of JSON."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **_CONTEXT,
            "process": record.process,
            "logger": record.name,
            **as_fields(record),
        }
        for current in _trace_ids:
            ids = current()
            if ids:
                line["trace_id"], line["span_id"] = ids
        return json.dumps(line, default=str, ensure_ascii=False)


class ActionLogger:
    """A logger whose first argument is the action key; everything else is a field."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"relais.{name}")

    def debug(self, action: str, **fields: object) -> None:
        """Log at DEBUG."""
        self._log(logging.DEBUG, action, fields)

    def info(self, action: str, **fields: object) -> None:
        """Log at INFO."""
        self._log(logging.INFO, action, fields)

    def warning(self, action: str, **fields: object) -> None:
        """Log at WARNING."""
        self._log(logging.WARNING, action, fields)

    def error(
        self, action: str, *, exc_info: BaseException | None = None, **fields: object
    ) -> None:
        """Log at ERROR, with the traceback of `exc_info` where one is given."""
        self._log(logging.ERROR, action, fields, exc_info=exc_info)

    def _log(
        self,
        level: int,
        action: str,
        fields: dict[str, object],
        exc_info: BaseException | None = None,
    ) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(
                level, action, exc_info=exc_info, extra={"action": action, "fields": fields}
            )


def logger(name: str) -> ActionLogger:
    """The logger of one package or service."""
    return ActionLogger(name)


def hashed(address: str) -> str:
    """A short stable hash of an address, so that lines about one recipient can be correlated."""
    return hashlib.sha256(address.strip().lower().encode()).hexdigest()[:16]


def with_trace_ids(current: Callable[[], tuple[str, str] | None]) -> None:
    """Have every line carry the (trace id, span id) that `current` returns."""
    _trace_ids[:] = [current]


def configure(*, service: str, colour: str, level: str = "INFO") -> None:
    """Send every log record of this process to stderr as JSON."""
    _CONTEXT.update(service=service, colour=colour)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("relais").setLevel(level)
    logging.captureWarnings(capture=True)  # Python's warnings are logged like anything else
