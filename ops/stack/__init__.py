"""The local stack: servers from wheels, and every process of one colour.

`Postgres` and `Valkey` stand alone: tests and benches start them on ports of
their own. `find` says where a stack is, `control` brings it up and down,
`report` says how it is.
"""

from __future__ import annotations

from ops.stack.layout import Layout, find
from ops.stack.postgres import Postgres
from ops.stack.valkey import Valkey

__all__ = ["Layout", "Postgres", "Valkey", "find"]
