"""The local stack: servers from wheels, and every process of one colour.

`Postgres` and `Valkey` stand alone: tests and benches start them on ports of
their own.
"""

from __future__ import annotations

from ops.stack.postgres import Postgres
from ops.stack.valkey import Valkey

__all__ = ["Postgres", "Valkey"]
