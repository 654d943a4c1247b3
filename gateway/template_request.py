"""What a caller may save, preview and set about templates, and its checks."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import to_json

from tasks.email.payload import OneLine
from tasks.templates.variables import Variables

NAME = r"^[A-Za-z0-9_.-]{1,64}$"
SOURCE_MAX_CHARS = 524_288
VALUE_MAX_BYTES = 16_384

TemplateName = Annotated[str, StringConstraints(pattern=NAME)]
Source = Annotated[str, StringConstraints(max_length=SOURCE_MAX_CHARS)]
Scope = Literal["tenant", "everybody"]


def _small(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if len(to_json(value)) > VALUE_MAX_BYTES:
        message = f"should have at most {VALUE_MAX_BYTES:,} bytes as JSON"
        raise ValueError(message)
    return value


class TemplateContent(BaseModel):
    """The parts of a mail, as Jinja templates; HTML as it is, or made from MJML."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "subject": "Welcome, {{ name }}",
                    "html": "<p>{{ greeting }} {{ name }}</p>",
                    "variables": {
                        "properties": {
                            "name": {"type": "string"},
                            "greeting": {"type": "string", "default": "Hello"},
                        },
                        "required": ["name"],
                    },
                }
            ]
        },
    )

    subject: OneLine = Field("", description="One line.")
    html: Source | None = Field(None, description="HTML; variables are escaped in it.")
    mjml: Source | None = Field(None, description="MJML, from which the HTML is made, once.")
    text: Source | None = Field(
        None, description="Plain text; left out, it is made from the HTML, once."
    )
    inline_css: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="Write the rules of <style> into the elements they concern."
    )
    variables: Variables = Field(
        default_factory=Variables, description="What callers may or must give, as a JSON schema."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.html is not None and self.mjml is not None:
            message = "give either html or mjml"
            raise ValueError(message)
        if self.html is None and self.mjml is None:
            if self.text is None:
                message = "a template needs html, mjml or text"
                raise ValueError(message)
            if self.inline_css:
                message = "inline_css needs html or mjml"
                raise ValueError(message)
        return self


class TemplateRequest(TemplateContent):
    """A new template."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "welcome",
                    "subject": "Welcome, {{ name }}",
                    "html": "<p>Hello {{ name }}</p>",
                    "variables": {
                        "properties": {"name": {"type": "string"}},
                        "required": ["name"],
                    },
                }
            ]
        },
    )

    name: TemplateName = Field(description="Unique within the tenant.")


class PreviewRequest(BaseModel):
    """What to fill a template with."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"variables": {"name": "Ada"}}]}
    )

    version: Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] | None = Field(
        None, description="Left out: the newest."
    )
    variables: dict[str, Any] = Field(
        default_factory=dict, description="As a caller of email.send would give them."
    )


class DefaultRequest(BaseModel):
    """The value of a variable where a caller leaves it out."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"value": "The team at Example", "template": "welcome"}]},
    )

    value: Annotated[Any, AfterValidator(_small)] = Field(description="Any JSON.")
    template: TemplateName | None = Field(
        None, description="In this template; left out: in every template that uses the variable."
    )
    scope: Scope = Field(
        "tenant", description="Of the caller's tenant, or of everybody (the tenant default only)."
    )
