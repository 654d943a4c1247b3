"""Whether a database can be trusted with jobs: the one list, for every process."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from ledger.errors import UnfitDatabase
from ledger.session import BriefSession, parameters
from runtime import urls
from runtime.finding import Finding, unreachable, words_of

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION_MIN = 15
CONNECT_S = 3
# Errors that persist until something is changed. All others may pass (it is starting, it has too
# many connections, its disk is full) and end no process: libpq does not expose the SQLSTATE here.
LASTING = (
    "authentication failed",
    "does not exist",
    "pg_hba.conf",
    "permission denied",
    "not permitted to log in",
    "is not currently accepting connections",
    "no password",
)
MIGRATE = "Run: python -m ledger.migrate pre"
# to_regclass() finds nothing in a schema without the right to use it, so query the catalogue.
LOOK = """
SELECT current_setting('server_version_num')::int / 10000 AS version,
       current_setting('server_encoding') AS encoding,
       current_setting('fsync') AS fsync,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('full_page_writes') AS full_page_writes,
       current_user AS role, current_database() AS database,
       has_database_privilege(current_database(), 'CREATE') AS may_create_schema,
       schema.oid IS NOT NULL AS has_schema,
       has_schema_privilege(schema.oid, 'USAGE') AS may_use_schema,
       jobs.oid IS NOT NULL AS has_jobs,
       has_table_privilege(jobs.oid, 'SELECT, INSERT, UPDATE, DELETE') AS may_write
FROM (SELECT) AS one
LEFT JOIN pg_namespace AS schema ON schema.nspname = 'relais'
LEFT JOIN pg_class AS jobs ON jobs.relnamespace = schema.oid AND jobs.relname = 'jobs'
"""


def refuse(seen: Mapping[str, Any], *, needs_schema: bool = True) -> None:
    """Raise UnfitDatabase for what `LOOK` has found; `needs_schema`: it must be migrated by now."""
    if seen["version"] < VERSION_MIN:
        sentence = f"Postgres is version {seen['version']}; Relais needs {VERSION_MIN} or newer."
        raise UnfitDatabase(sentence, remedy="Upgrade the server.")
    if seen["encoding"] != "UTF8":
        sentence = (
            f"The database {seen['database']!r} has the encoding {seen['encoding']}, which cannot"
            " store most characters; Relais needs UTF8."
        )
        remedy = "Create one: CREATE DATABASE relais ENCODING 'UTF8' TEMPLATE template0"
        raise UnfitDatabase(sentence, remedy=f"{remedy} (add LOCALE 'C.UTF-8' if it asks for one).")
    for name in ("fsync", "synchronous_commit", "full_page_writes"):
        if seen[name] == "off":
            sentence = f"Postgres runs with {name} = off, so a power cut would lose jobs."
            raise UnfitDatabase(sentence, remedy=f"Set {name} = on and restart Postgres.")
    _refuse_without_rights(seen, needs_schema=needs_schema)


def _refuse_without_rights(seen: Mapping[str, Any], *, needs_schema: bool) -> None:
    role, database = seen["role"], seen["database"]
    if not seen["has_schema"] and not seen["may_create_schema"]:
        sentence = f"The role {role!r} may not create the schema relais in {database!r}."
        remedy = f'As a superuser there: CREATE SCHEMA relais AUTHORIZATION "{role}".'
        raise UnfitDatabase(sentence, remedy=remedy)
    if seen["has_schema"] and not seen["may_use_schema"]:
        sentence = f"The role {role!r} may not use the schema relais in {database!r}."
        remedy = f'As a superuser there: ALTER SCHEMA relais OWNER TO "{role}".'
        raise UnfitDatabase(sentence, remedy=remedy)
    if seen["has_jobs"] and not seen["may_write"]:
        sentence = f"The role {role!r} may not write the tables of the schema relais."
        raise UnfitDatabase(sentence, remedy="Use the role that ran the migrations.")
    if needs_schema and not seen["has_jobs"]:
        sentence = "The database has no Relais schema."
        raise UnfitDatabase(sentence, remedy=MIGRATE)


def ask(variable: str, url: str, *, needs_schema: bool = True) -> Finding | None:
    """What is wrong with the database at `url`, in the server's words; None: nothing."""
    where = urls.shown(url)
    name = f"Postgres at {where}" if where else "Postgres"
    try:
        told = parameters(url, application_name="relais preflight") | {"connect_timeout": CONNECT_S}
        with closing(
            BriefSession.connect(**told, autocommit=True, row_factory=dict_row)
        ) as session:
            refuse(session.execute(LOOK).fetchone() or {}, needs_schema=needs_schema)
    except UnfitDatabase as error:
        return Finding(variable, error.sentence, error.remedy)
    except psycopg.Error as error:
        words = words_of(error)
        if "FATAL:" not in str(error):
            return unreachable(variable, name, words)
        sentence = f"{name} refuses: {words}."
        if any(lasting in words for lasting in LASTING):
            return Finding(variable, sentence, _remedy_of(words))
        remedy = "Wait until it accepts connections; its log says more."
        return Finding(variable, sentence, remedy, is_passing=True)
    return None


def _remedy_of(words: str) -> str:
    if "does not exist" in words and "database" in words:
        return "Correct the database's name, or create it: CREATE DATABASE ... ENCODING 'UTF8'."
    if "pg_hba.conf" in words:
        return "Add this host, user and database to the server's pg_hba.conf."
    if "not currently accepting" in words:
        return "Allow them: ALTER DATABASE ... ALLOW_CONNECTIONS true."
    if "permission denied" in words:
        return "As a superuser: GRANT CONNECT ON DATABASE ... TO ..."
    return "Correct the user or its password: postgresql://user:password@host:port/database."
