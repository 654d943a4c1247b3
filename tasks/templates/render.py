"""The kind `template.render`: a Jinja template and its variables in, text out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.errors import RenderError
from tasks.kinds import kind
from tasks.outcomes import ErrorReport, Failed, Outcome, Succeeded
from tasks.templates import sandbox
from tasks.templates.sandbox import render_fields

if TYPE_CHECKING:
    from tasks.context import Context

__all__ = ["TemplateRender", "render_fields", "render_template"]

Source = Annotated[str, Field(max_length=sandbox.SOURCE_MAX_CHARS)]


class TemplateRender(BaseModel):
    """Either `template`, or any of `subject`, `text` and `html`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"template": "Hello {{ name }}!", "variables": {"name": "Zoë"}},
                {
                    "subject": "Order {{ order.number }}",
                    "html": "<ul>{% for item in order.items %}<li>{{ item }}</li>{% endfor %}</ul>",
                    "variables": {"order": {"number": "A-17", "items": ["tea", "cups"]}},
                },
            ]
        },
    )

    template: Source | None = Field(
        None, description="One Jinja template.", examples=["Hello {{ name }}!"]
    )
    subject: Source | None = Field(None, description="Template of a subject.")
    text: Source | None = Field(None, description="Template of a plain text.")
    html: Source | None = Field(None, description="Template of HTML; variables are escaped in it.")
    variables: dict[str, Any] = Field(
        default_factory=dict,
        description="What the templates may use: strings, numbers, booleans, lists, objects.",
    )
    autoescape: bool = Field(default=False, description="Escape variables in `template` for HTML.")
    output_max_bytes: int = Field(
        1_048_576,
        ge=1,
        le=sandbox.OUTPUT_MAX_BYTES,
        description="The job fails if the total output is larger.",
    )

    @model_validator(mode="after")
    def _something_to_render(self) -> Self:
        parts = (self.subject, self.text, self.html)
        if (self.template is None) == all(part is None for part in parts):
            message = "give either 'template' or some of 'subject', 'text' and 'html'"
            raise ValueError(message)
        return self


@kind("template.render", payload=TemplateRender, queue="template", max_attempts=3, timeout_s=30.0)
async def render_template(payload: TemplateRender, context: Context) -> Outcome:
    """Render a Jinja template, or the parts of a mail, in a sandbox.

    The result is `{"output": ...}` or `{"subject": ..., "text": ..., "html": ...}` with the parts
    that were given. A template that is wrong fails at once; its line is named.
    """
    if payload.template is not None:
        fields = {"output": payload.template}
        escaped = ["output"] if payload.autoescape else []
    else:
        given = {"subject": payload.subject, "text": payload.text, "html": payload.html}
        fields = {name: source for name, source in given.items() if source is not None}
        escaped = ["html"]
    arguments = {
        "fields": fields,
        "variables": payload.variables,
        "autoescape": escaped,
        "output_max_bytes": payload.output_max_bytes,
    }
    try:
        # Not a plain `def`: the process for functions has no secrets, the one for kinds does.
        if context.isolate is None:
            return Succeeded(render_fields(arguments))
        return Succeeded(await context.isolate("render", arguments))
    except RenderError as error:
        return Failed(str(error), error=ErrorReport("RenderError", str(error)))
