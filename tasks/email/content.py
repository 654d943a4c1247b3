"""What stands in a mail: its own subject and bodies, or those of a stored template, filled in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.templates import Note
from tasks.errors import PayloadError
from tasks.templates import plain_text, stored, variables
from tasks.templates.render import render_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.templates import Version
    from tasks.context import Context
    from tasks.email.payload import Email
    from tasks.templates.variables import Resolved


class JobGone(Exception):  # noqa: N818 - reads as the event it is
    """The job whose mail this is does not exist any more."""


async def filled(email: Email, context: Context) -> tuple[Email, str | None]:
    """The mail with its templates filled in, and the version that it was made from (`name@3`).

    Raises RenderError or PayloadError, JobGone, and LedgerUnavailable.
    """
    if email.template is not None:
        return await _from_stored(email, email.template, context)
    if email.variables is None:
        return email, None
    fields = {"subject": email.subject, "text": email.text, "html": email.html}
    sources = {name: source for name, source in fields.items() if source is not None}
    return email.with_content(await _rendered(sources, email.variables, context)), None


async def _from_stored(email: Email, reference: str, context: Context) -> tuple[Email, str]:
    templates = stored.of(context.database)
    note = await templates.noted(context.job_id) if context.attempt > 1 else None
    if note is None:
        version = await templates.find(context.tenant, reference)
        resolved = variables.resolve(
            email.variables or {},
            schema=version.variables,
            mentions=version.mentions,
            defaults=await templates.defaults(version),
        )
        made = await _made(email, version, resolved, context)
        # Only now: a template that cannot be rendered may be corrected before the job is retried.
        mine = Note(version.name, version.version, resolved.defaulted)
        note = await templates.note(context.job_id, mine)
        if note is None:
            raise JobGone
        if note == mine:
            templates.count(resolved.used)
            await templates.mark_used(version)
            return made, version.reference
    # An earlier attempt may have sent it to some, or may not know whether: the same bytes again.
    version = await templates.find(context.tenant, f"{note.name}@{note.version}")
    await templates.mark_used(version)  # in case that the other did not come to it
    given = {**(email.variables or {}), **note.defaults}
    resolved = variables.resolve(given, schema=version.variables, mentions=version.mentions)
    return await _made(email, version, resolved, context), version.reference


async def _made(email: Email, version: Version, resolved: Resolved, context: Context) -> Email:
    if resolved.missing:
        sentence = f"The template {version.reference} needs {', '.join(resolved.missing)}."
        raise PayloadError(sentence, remedy="Give it in 'variables', or set a default.")
    parts = await _rendered(version.parts, resolved.values, context)
    if version.is_text_derived:
        parts = {**parts, "text": plain_text.tidy(parts["text"])}
    return email.with_content(parts)


async def _rendered(
    sources: Mapping[str, str], values: Mapping[str, Any], context: Context
) -> dict[str, Any]:
    arguments: dict[str, Any] = {"fields": dict(sources), "variables": dict(values)}
    if context.isolate is None:  # no worker around: a test
        return render_fields(arguments)
    return await context.isolate("render", arguments)
