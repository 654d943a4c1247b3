"""Mails as the programs write them, one file each."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

FOLDER = Path(__file__).parent / "samples"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # signed the tokens in the samples
MESSAGE = UUID("0198c0de-0000-7000-8000-000000000001")  # which they name
MESSAGE_ID = "<0198c0de000070008000000000000000@example.com>"
NAMES = sorted(path.stem for path in FOLDER.glob("*.eml"))


def sample(name: str) -> bytes:
    """The mail as it is stored, with line feeds."""
    return (FOLDER / f"{name}.eml").read_bytes()
