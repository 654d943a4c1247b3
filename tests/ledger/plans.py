"""What a statement reads, by EXPLAIN (ANALYZE, BUFFERS), planned for its values and for any."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql as composed
from psycopg.adapt import PyFormat, Transformer

from tests.ledger import statements

LARGE = 10_000  # rows; a table that has fewer may be read from end to end
REMOVED_MAX = 300  # rows that were read and thrown away; a batch is 256
MODES = ("force_custom_plan", "force_generic_plan")


@dataclass(slots=True)
class Plan:
    """One plan that was run."""

    text: str
    took_ms: float
    buffers: int
    rows_read: int  # of large tables
    faults: list[str] = field(default_factory=list)


def large_tables(connection: psycopg.Connection[Any]) -> frozenset[str]:
    """The tables that are large, partitions by their own names."""
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'relais'::regnamespace"
        " AND relkind = 'r' AND reltuples >= %s",
        (LARGE,),
    )
    return frozenset(row[0] for row in rows)


def explain(
    connection: psycopg.Connection[Any],
    sql: str,
    values: Mapping[str, Any],
    *,
    mode: str,
    large: frozenset[str],
) -> Plan:
    """Run `sql` in a transaction that is rolled back, and look at what it did."""
    bound = [values[name] for name in statements.parameters(sql)]
    try:
        connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        types = f"({', '.join(_types(connection, bound))})" if bound else ""
        prepare = f"PREPARE asked{types} AS {statements.prepared(sql)}"
        connection.execute(prepare, prepare=False)
        literals = [composed.Literal(value).as_string(connection) for value in bound]
        asked = f"EXECUTE asked({', '.join(literals)})" if literals else "EXECUTE asked"
        query = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {asked}"
        row = connection.execute(query, prepare=False).fetchone()
        assert row is not None
        document = row[0] if isinstance(row[0], list) else json.loads(row[0])
    finally:
        connection.rollback()
        connection.execute("DEALLOCATE ALL")
        connection.rollback()
    _clean(connection, document[0]["Plan"])
    return _judged(document[0], large)


def _clean(connection: psycopg.Connection[Any], plan: dict[str, Any]) -> None:
    """Take away the dead rows that a write leaves when it is rolled back.

    They fill the pages of its rows, so that the next update would find no room there and write into
    every index: what a statement costs would depend on which ones were looked at before it.
    """
    written = {node["Relation Name"] for node in _nodes(plan) if node["Node Type"] == "ModifyTable"}
    connection.autocommit = True
    for table in sorted(written):
        vacuum = composed.SQL("VACUUM (INDEX_CLEANUP ON) {}").format(
            composed.Identifier("relais", table)
        )
        connection.execute(vacuum)
    connection.autocommit = False


def _types(connection: psycopg.Connection[Any], values: list[Any]) -> list[str]:
    """What psycopg would say the values are; unknown where it leaves that to Postgres."""
    transformer = Transformer(connection)
    oids = []
    for value in values:
        dumper = transformer.get_dumper(value, PyFormat.AUTO)
        oids.append(dumper.oid if value is not None else 0)
    rows = connection.execute("SELECT oid::regtype::text FROM unnest(%s::oid[]) AS oid", (oids,))
    return [row[0] if row[0] != "-" else "unknown" for row in rows]


def _judged(document: dict[str, Any], large: frozenset[str]) -> Plan:
    root = document["Plan"]
    plan = Plan(
        text="\n".join(_lines(root)),
        took_ms=document["Execution Time"],
        buffers=root["Shared Hit Blocks"] + root["Shared Read Blocks"],
        rows_read=0,
    )
    removed = 0
    for node in _nodes(root):
        loops = node.get("Actual Loops", 0)
        removed_here = round(
            loops
            * sum(
                node.get(f"Rows Removed by {what}", 0)
                for what in ("Filter", "Index Recheck", "Join Filter")
            )
        )
        table = node.get("Relation Name")
        is_scan = table in large and "Scan" in node["Node Type"]
        if is_scan:
            plan.rows_read += round(loops * node["Actual Rows"]) + removed_here
        if is_scan and node["Node Type"] == "Seq Scan" and loops:
            plan.faults.append(f"reads all of {table}")
        if is_scan or "Join" in node["Node Type"] or node["Node Type"] == "Nested Loop":
            removed += removed_here
    if removed > REMOVED_MAX:
        plan.faults.append(f"throws away {removed:,} rows that it has read")
    return plan


def _lines(node: dict[str, Any], depth: int = 0) -> Iterator[str]:
    """The plan as a person reads it."""
    words = [node["Node Type"]]
    words += [f"on {node['Relation Name']}"] if "Relation Name" in node else []
    words += [f"by {node['Index Name']}"] if "Index Name" in node else []
    removed = [
        f"{name.removeprefix('Rows Removed by ').lower()} removed {value:,.0f}"
        for name, value in node.items()
        if name.startswith("Rows Removed by ") and value
    ]
    pages = node["Shared Hit Blocks"] + node["Shared Read Blocks"]
    figures = [f"{node.get('Actual Rows', 0):,.0f} rows x {node.get('Actual Loops', 0)}", *removed]
    conditions = [node[name] for name in ("Index Cond", "Filter", "Hash Cond") if name in node]
    yield f"{'  ' * depth}{' '.join(words)}: {', '.join(figures)}, {pages:,} pages {conditions}"
    for inner in node.get("Plans", ()):
        yield from _lines(inner, depth + 1)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", ()):
        yield from _nodes(inner)
