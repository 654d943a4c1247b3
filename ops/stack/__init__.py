"""The local stack: servers from wheels, and every process of one colour.

`Postgres` and `Valkey` stand alone: tests and benches start them on ports of
their own. `find` says where a stack is, `up` and `down` do what they say,
`environment` is for a process that belongs to it, `report.make` says how it is.
"""

from __future__ import annotations

from ops.stack.control import down, environment, up
from ops.stack.layout import Layout, find
from ops.stack.postgres import Postgres
from ops.stack.valkey import Valkey

__all__ = ["Layout", "Postgres", "Valkey", "down", "environment", "find", "up"]
