"""The variables of a stored template: what it declares of them, and where their values come from.

A declaration is a JSON schema of an object, of which only `properties` and `required` count, and of
a property its `type` and `default`. A value is looked for in this order: what the caller gives, the
default set for the template, the one declared in it, those set for the tenant, those for everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from tasks.errors import PayloadError

if TYPE_CHECKING:
    from ledger.defaults import Default

COUNT_MAX = 200
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Type = Literal["string", "number", "integer", "boolean", "array", "object"]
_WORDS: dict[str, str] = {
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}


class Variable(BaseModel):
    """One variable."""

    model_config = ConfigDict(extra="forbid")

    type: Type | None = Field(None, description="Left out: anything.")
    default: Any = Field(None, description="The value where nobody gives one.")
    description: Annotated[str, StringConstraints(max_length=500)] = Field(
        "", description="For whoever fills it in."
    )

    @model_validator(mode="after")
    def _default_fits(self) -> Self:
        if self.default is not None and not _fits(self.default, self.type):
            message = f"the default should be {_WORDS[self.type or 'object']}"
            raise ValueError(message)
        return self


class Variables(BaseModel):
    """The variables that a template declares, as a JSON schema of an object."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "properties": {
                        "name": {"type": "string", "description": "How to address them"},
                        "greeting": {"type": "string", "default": "Hello"},
                    },
                    "required": ["name"],
                }
            ]
        },
    )

    type: Literal["object"] = "object"
    properties: Annotated[dict[VariableName, Variable], Field(max_length=COUNT_MAX)] = Field(
        default_factory=dict, description="By name."
    )
    required: Annotated[list[VariableName], Field(max_length=COUNT_MAX)] = Field(
        default_factory=list, description="Those without which nothing is sent."
    )

    @model_validator(mode="after")
    def _required_are_declared(self) -> Self:
        for name in self.required:
            if name not in self.properties:
                message = f"{name!r} is required and not among the properties"
                raise ValueError(message)
        return self

    def schema_of_object(self) -> dict[str, Any]:
        """As it is stored: what was left out is left out."""
        properties = {
            name: variable.model_dump(exclude_unset=True)
            for name, variable in self.properties.items()
        }
        return {"type": "object", "properties": properties, "required": sorted(set(self.required))}


@dataclass(frozen=True, slots=True)
class Resolved:
    """The values of a template's variables, and what is to be known of them."""

    values: dict[str, Any]
    missing: tuple[str, ...] = ()  # required, and nobody gives them
    unset: tuple[str, ...] = ()  # used in the template, and nobody gives them
    used: tuple[Default, ...] = ()  # the defaults set beside the template that were needed
    defaulted: dict[str, Any] = field(default_factory=dict)  # the values of those


def names(schema: Mapping[str, Any], mentions: Iterable[str]) -> list[str]:
    """Every variable that a template declares or uses, by name."""
    return sorted({*schema.get("properties", {}), *mentions})


def resolve(
    given: Mapping[str, Any],
    *,
    schema: Mapping[str, Any],
    mentions: Iterable[str],
    defaults: Iterable[Default] = (),
) -> Resolved:
    """The values of all variables; `defaults` as `ledger.defaults.look_up` gives them.

    A null for a declared variable counts as left out. Raises PayloadError for a value of another
    type than the declared one, wherever it comes from.
    """
    declared: Mapping[str, Any] = schema.get("properties", {})
    values = {n: v for n, v in given.items() if v is not None or n not in declared}
    nearest: dict[str, Default] = {}
    for each in defaults:
        nearest.setdefault(each.variable, each)
    used: list[Default] = []
    for name in names(schema, mentions):
        if name in values:
            continue
        found = nearest.get(name)
        own = declared.get(name, {}).get("default")
        is_nearer = found is not None and found.tenant is not None and found.template
        if found is not None and (is_nearer or own is None):
            values[name] = found.value
            used.append(found)
        elif own is not None:
            values[name] = own
    for name, variable in declared.items():
        if name in values and not _fits(values[name], variable.get("type")):
            sentence = f"variables.{name} should be {_WORDS[variable['type']]}."
            raise PayloadError(sentence, remedy="Correct the value, or what is declared.")
    return Resolved(
        values=values,
        missing=tuple(n for n in schema.get("required", ()) if n not in values),
        unset=tuple(sorted(n for n in mentions if n not in values)),
        used=tuple(used),
        defaulted={each.variable: each.value for each in used},
    )


def _fits(value: object, wanted: str | None) -> bool:
    match wanted:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "integer":
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return is_number and value == int(value)  # type: ignore[call-overload]
    return True
