"""Programs of wheels, where the servers' account cannot get at them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from ops.stack import programs


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands servers to another account")
def test_a_program_in_a_closed_folder_is_copied_once() -> None:
    with tempfile.TemporaryDirectory() as closed, tempfile.TemporaryDirectory() as other:
        folder = Path(other)
        program = Path(closed) / "server"
        program.write_bytes(b"#!/bin/sh\n")
        Path(closed).chmod(0o700)
        copy = programs.reachable(program, folder)
        assert copy == folder / "server"
        assert copy.stat().st_mode & 0o777 == 0o755
        made_at = copy.stat().st_mtime_ns
        assert programs.reachable(program, folder) == copy
        assert copy.stat().st_mtime_ns == made_at
        program.write_bytes(b"#!/bin/sh\n# a newer wheel\n")
        assert programs.reachable(program, folder).read_bytes() == program.read_bytes()
        Path(closed).chmod(0o711)
        assert programs.reachable(program, folder) == program
