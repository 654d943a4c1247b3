"""Where the values of variables come from, and what may be declared of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from ledger.defaults import Default
from tasks.errors import PayloadError
from tasks.templates.variables import Variables, resolve

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "footer": {"type": "string", "default": "declared"}},
    "required": ["name"],
}


def default(value: object, *, tenant: str | None = None, template: str = "") -> Default:
    return Default(
        id=len(str(value)),
        tenant=tenant,
        template=template,
        variable="footer",
        value=value,
        used=0,
        changed_at=datetime.now(UTC),
        changed_by="ada",
    )


OF_TEMPLATE = default("the template's", tenant="default", template="hello")
OF_TENANT = default("the tenant's", tenant="default")
OF_EVERYBODY = default("everybody's")


@pytest.mark.parametrize(
    ("given", "own", "beside", "value"),
    [
        ("given", "declared", [OF_TEMPLATE, OF_TENANT, OF_EVERYBODY], "given"),
        (None, "declared", [OF_TEMPLATE, OF_TENANT, OF_EVERYBODY], "the template's"),
        (None, "declared", [OF_TENANT, OF_EVERYBODY], "declared"),
        (None, None, [OF_TENANT, OF_EVERYBODY], "the tenant's"),
        (None, None, [OF_EVERYBODY], "everybody's"),
        (None, None, [], None),
    ],
)
def test_the_nearest_value_counts(
    given: str | None, own: str | None, beside: list[Default], value: str | None
) -> None:
    schema = {"properties": {"footer": {"default": own} if own else {}}, "required": ["footer"]}
    found = resolve({"footer": given}, schema=schema, mentions=["footer"], defaults=beside)
    assert found.values.get("footer") == value
    assert found.missing == found.unset == (() if value else ("footer",))
    is_from_beside = value in {row.value for row in beside}
    assert found.used == ((beside[0],) if is_from_beside else ())
    assert found.defaulted == ({"footer": value} if is_from_beside else {})


def test_a_default_counts_where_a_variable_is_used_though_not_declared() -> None:
    found = resolve({}, schema={}, mentions=["footer", "more"], defaults=[OF_TENANT])
    assert found.values == {"footer": "the tenant's"}
    assert (found.missing, found.unset) == ((), ("more",))


def test_null_is_a_value_of_what_is_not_declared() -> None:
    found = resolve({"name": None, "more": None}, schema=SCHEMA, mentions=["name", "more"])
    assert found.values == {"more": None, "footer": "declared"}
    assert (found.missing, found.unset) == (("name",), ("name",))


@pytest.mark.parametrize(
    ("kind", "fits", "does_not"),
    [
        ("string", "", 5),
        ("number", 1.5, "1"),
        ("number", 1, True),
        ("integer", 2.0, 2.5),
        ("integer", 10**30, False),
        ("boolean", False, 0),
        ("array", [], {}),
        ("object", {}, []),
    ],
)
def test_types_are_those_of_json_schema(kind: str, fits: object, does_not: object) -> None:
    schema = {"properties": {"name": {"type": kind}}}
    assert resolve({"name": fits}, schema=schema, mentions=()).values == {"name": fits}
    with pytest.raises(PayloadError, match=r"^variables\.name should be "):
        resolve({"name": does_not}, schema=schema, mentions=())
    with pytest.raises(ValidationError):
        Variables.model_validate({"properties": {"a": {"type": kind, "default": does_not}}})


def test_a_default_of_another_type_is_refused_too() -> None:
    wrong = default(5, tenant="default", template="hello")
    with pytest.raises(PayloadError, match=r"^variables\.footer should be a text"):
        resolve({"name": "Ada"}, schema=SCHEMA, mentions=(), defaults=[wrong])


def test_a_declaration_is_stored_as_it_was_given() -> None:
    stored = Variables.model_validate(SCHEMA).schema_of_object()
    assert stored == SCHEMA
    assert Variables().schema_of_object() == {"type": "object", "properties": {}, "required": []}
