"""The OpenAPI document arranged for readers: groups of operations, flat tables of fields."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tasks.kinds import Kind

ORDER = ("get", "post", "put", "patch", "delete")
_DEPTH_MAX = 4
METHODS_WITH_BODY = ("post", "put", "patch")


def groups(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Tags in the document's order, each with its operations, ready for the template."""
    schemas = document["components"]["schemas"]
    found: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for method in ORDER:
            if method in operations:
                operation = operations[method]
                view = _operation(operation, path=path, method=method, schemas=schemas)
                found[operation["tags"][0]].append(view)
    return [
        {"name": tag["name"], "about": tag["description"], "operations": found[tag["name"]]}
        for tag in document["tags"]
    ]


def kinds(known: Iterable[Kind]) -> list[dict[str, Any]]:
    """Every kind that callers may ask for, by name, each with the fields of its payload."""
    shown = []
    for kind in sorted(known, key=lambda one: one.name):
        if kind.internal:
            continue
        schema = kind.payload.model_json_schema()
        shown.append(
            {
                "name": kind.name,
                "about": kind.summary,
                "queue": kind.queue,
                "payload": _fields(schema, schema.get("$defs", {})),
                "examples": [
                    _curl(
                        method="post",
                        path="/api/v1/jobs",
                        value={"kind": kind.name, "payload": example},
                    )
                    for example in schema.get("examples", [])[:1]
                ],
            }
        )
    return shown


def _operation(
    operation: dict[str, Any], *, path: str, method: str, schemas: dict[str, Any]
) -> dict[str, Any]:
    bodies = operation.get("requestBody", {}).get("content", {})
    body = bodies.get("application/json", {}).get("schema", {})
    answer: dict[str, Any] = next(
        (
            content.get("schema", {})
            for status, response in operation["responses"].items()
            if status.startswith("2")
            for media, content in response.get("content", {}).items()
            if media == "application/json"
        ),
        {},
    )
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": operation["summary"],
        "about": operation.get("description", ""),
        "roles": operation["x-roles"],
        "parameters": [_parameter(entry, schemas) for entry in operation.get("parameters", [])],
        "body": _fields(_items(_resolve(body, schemas), schemas), schemas),
        "examples": [
            {
                **example,
                "curl": _curl(method=method, path=path, value=example["value"]),
                "text": json.dumps(example["value"], indent=2, ensure_ascii=False),
            }
            for example in _examples(bodies, schemas)
        ]
        or _bare(operation, method=method, path=path, has_body=bool(bodies)),
        "answer": _fields(_resolve(answer, schemas), schemas),
        "statuses": [
            (status, response["description"])
            for status, response in sorted(operation["responses"].items())
        ],
    }


def _examples(bodies: dict[str, Any], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    content = bodies.get("application/json", {})
    if "examples" in content:
        return list(content["examples"].values())
    if "example" in content:
        return [{"summary": "An example", "value": content["example"]}]
    schema = _resolve(content.get("schema", {}), schemas)
    return [{"summary": "An example", "value": value} for value in schema.get("examples", [])[:1]]


def _bare(
    operation: dict[str, Any], *, method: str, path: str, has_body: bool
) -> list[dict[str, Any]]:
    if has_body:
        return []
    return [
        {
            "summary": operation["summary"],
            "curl": _curl(method=method, path=path, value=None, is_open=not operation["x-roles"]),
        }
    ]


def _curl(*, method: str, path: str, value: object, is_open: bool = False) -> str:
    parts = [f'curl "$RELAIS_URL{path}"']
    if method != "get" and not (method == "post" and value is not None):
        parts.append(f"-X {method.upper()}")
    if not is_open:
        parts.append('-H "Authorization: Bearer $RELAIS_API_KEY"')
    if value is not None:
        body = json.dumps(value, indent=2, ensure_ascii=False).replace("'", "'\\''")
        parts += ['-H "Content-Type: application/json"', f"-d '{body}'"]
    return " \\\n  ".join(parts)


def _parameter(entry: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": entry["name"],
        "where": entry["in"],
        "required": entry.get("required", False),
        "type": _type(entry.get("schema", {}), schemas),
        "default": "",
        "about": entry.get("description", ""),
    }


def _fields(schema: dict[str, Any], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "required": name in required,
            "type": _type(field, schemas),
            "default": json.dumps(field["default"])
            if field.get("default") not in (None, "", [], {})
            else "",
            "about": field.get("description", ""),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def _items(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return _resolve(schema["items"], schemas) if schema.get("type") == "array" else schema


def _resolve(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = schemas[schema["$ref"].rsplit("/", 1)[-1]]
        return found
    return schema


def _type(schema: dict[str, Any], schemas: dict[str, Any], *, depth: int = 0) -> str:
    if depth > _DEPTH_MAX:  # a user's payload model may be recursive
        return "..."
    schema = _resolve(schema, schemas)
    if "anyOf" in schema:
        options = [_type(option, schemas, depth=depth + 1) for option in schema["anyOf"]]
        return " or ".join(option for option in options if option != "null") or "null"
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}), schemas, depth=depth + 1)}"
    if schema.get("type") == "object":
        return str(schema.get("title", "object")) if schema.get("properties") else "object"
    text = str(schema.get("format") or schema.get("type", "any"))
    limits = [
        f"{sign} {schema[name]:g}"
        for name, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if name in schema
    ]
    return f"{text} {', '.join(limits)}".strip()
