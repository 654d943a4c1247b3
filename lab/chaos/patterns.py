"""What the moments look like on the wire at which a fault strikes.

Postgres: a message is one letter, four bytes of length, and its content. The COMMIT of a claim is
told from others by what the server said before it: rows of twenty-one columns.
"""

from __future__ import annotations

import re

# Postgres, up: COMMIT as a simple query or as the text of a Parse.
COMMIT = re.compile(rb"COMMIT\x00")
# Postgres, down: its answer; a transaction that is over is forgotten.
COMMITTED = re.compile(rb"C\x00\x00\x00\x0bCOMMIT\x00")
OVER = re.compile(rb"C\x00\x00\x00.(?:COMMIT|ROLLBACK|BEGIN)\x00", re.DOTALL)
# Postgres, down: what kind of transaction it was.
ACCEPTED = re.compile(
    rb"D\x00\x00\x00.\x00\x04\x00\x00\x00[\x10\x24].{16,36}\x00\x00\x00.(?:blocked|scheduled|ready)",
    re.DOTALL,
)
CLAIMED = re.compile(rb"D\x00\x00..\x00\x15\x00\x00\x00", re.DOTALL)
FINISHED = re.compile(rb"D\x00\x00\x00[\x24\x38]\x00\x03.{20,4000}UPDATE [1-9]", re.DOTALL)
# Postgres, down: a write was refused because the server is read-only.
READ_ONLY = re.compile(rb"\x00C25006\x00")
# Postgres, up: who a new connection belongs to.
PRESENCE = re.compile(rb"application_name\x00relais presence")

# Redis, up: a doorbell on its way. Down: one that BRPOP hands over.
RING = re.compile(rb"LLEN\r\n|LPUSH\r\n")
POPPED = re.compile(rb"\*2\r\n\$\d+\r\n(?:critical|template|bulk|callback)[^\r]*\r\n\$\d+\r\n\{")
# Redis, down: a write was refused for want of room; it has become a replica meanwhile.
OUT_OF_MEMORY = re.compile(rb"-OOM ")
REPLICA = re.compile(rb"-UNBLOCKED |-READONLY ")

# SMTP, up: the final dot. Down: the recorder's answer to it.
DOT = re.compile(rb"(?:^|\r\n)\.\r\n$")
QUEUED = re.compile(rb"250 2\.0\.0 queued")

# HTTP, up: a callback. Down: its answer.
POST = re.compile(rb"POST /cb/")
ANSWERED = re.compile(rb"HTTP/1\.1 200 ")
