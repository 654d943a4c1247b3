"""Small JSON files that another process may read at any moment: always whole."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, Any] | None:
    """The object in `path`; None where there is no such file."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    content: dict[str, Any] = json.loads(text)
    return content


def write(path: Path, content: dict[str, Any], *, mode: int = 0o600) -> None:
    """Replace `path` in one step, durably."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fchmod(file.fileno(), mode)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink()
        raise
