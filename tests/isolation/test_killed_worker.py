"""Children of a worker that is killed before it has read what they said: they end, and silently."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

ROOM_BYTES = 1 << 30
CHILD = """
import socket, sys
from workers.isolation.inside import child
channel = socket.socket(fileno=int(sys.argv[1]))
child.main("function", channel, child.prepare("function"), memory_bytes=int(sys.argv[2]))
"""


@pytest.mark.parametrize("which", ["child", "fork server"])
def test_ends_without_a_word(which: str) -> None:
    ours, theirs = socket.socketpair()
    descriptor = str(theirs.fileno())
    words = {
        "child": ["-c", CHILD, descriptor, str(ROOM_BYTES)],
        "fork server": [
            *("-m", "workers.isolation.inside.forking", descriptor, "function"),
            *(str(os.getpid()), str(ROOM_BYTES)),
        ],
    }[which]
    started = subprocess.Popen(
        [sys.executable, *words], pass_fds=[theirs.fileno()], stderr=subprocess.PIPE
    )
    theirs.close()
    ours.settimeout(20)
    ours.recv(1, socket.MSG_PEEK)  # it is ready, and nobody has read that
    ours.close()
    _, said = started.communicate(timeout=20)
    assert (started.returncode, said) == (0, b"")
