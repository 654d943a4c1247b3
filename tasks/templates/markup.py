"""What is made from a template when it is saved, once: HTML from MJML, styles inlined, plain text.

Runs in the isolated process, and never for a recipient: Jinja's placeholders come through as they
are. MJML and inlined styles need packages that a lean installation may leave out (`markup`).
"""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import Any

from tasks.errors import RenderError
from tasks.templates import plain_text, sandbox
from tasks.templates.placeholders import Placeholders


def _optional(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


# At the top: the process can read no file any more by the time that it compiles.
mjml = _optional("mjml")
css_inline = _optional("css_inline")

_UNKNOWN = re.compile(r"<(mj-[a-z-]+|mjml)\b")
DEPTH_MAX = 500
_TAG = re.compile(r"<(/?)(?!(?:area|base|br|col|hr|img|input|link|meta|wbr)\b)[A-Za-z][^<>]*?(/?)>")
_INSTALL = "Install Relais with the extra 'markup': pip install 'relais[markup]'."


def compile_parts(arguments: dict[str, Any]) -> dict[str, Any]:
    """Check and compile `{"subject", "html" or "mjml", "text", "inline_css"}`, parts may be None.

    Gives `{"html", "text", "mentions"}`: what was made (None: the part is sent as it is), and the
    names of the variables that are used. Raises RenderError with the part and its line.
    """
    given = {name: arguments.get(name) for name in ("subject", "html", "text")}
    mjml_source = arguments.get("mjml")
    parts = {name: source for name, source in given.items() if source is not None}
    sandbox.examine(parts)
    made = None if mjml_source is None else _from_mjml(mjml_source)
    if arguments.get("inline_css") and (source := made or given["html"]) is not None:
        made = _inlined(source, field="html" if mjml_source is None else "mjml")
    html = made if made is not None else given["html"]
    if html is not None:
        parts["html"] = html
    text = None
    if given["text"] is None and html is not None:
        text = parts["text"] = _as_text(html)
    return {"html": made, "text": text, "mentions": sandbox.examine(parts)}


def _from_mjml(source: str) -> str:
    if mjml is None:
        message = "MJML cannot be compiled here: the package mjml-python is not installed."
        raise RenderError(message, remedy=_INSTALL)
    sandbox.examine({"mjml": source})
    placeholders = Placeholders(source, field="mjml")
    _refuse_depth(placeholders.hidden, field="mjml")
    try:
        html = mjml.mjml2html(placeholders.hidden)
    except ValueError as error:
        sentence = f"Template mjml: {str(error).replace(' in root template', '')}."
        raise RenderError(sentence, remedy="Correct it; positions count characters.") from None
    unknown = _UNKNOWN.search(html)
    if unknown:
        sentence = (
            f"Template mjml: the element <{unknown[1]}> is unknown, or stands where it may not."
        )
        raise RenderError(sentence, remedy="https://documentation.mjml.io lists the elements.")
    return placeholders.restored(html)


def _inlined(source: str, *, field: str) -> str:
    if css_inline is None:
        message = "Styles cannot be inlined here: the package css-inline is not installed."
        raise RenderError(message, remedy=_INSTALL)
    placeholders = Placeholders(source, field=field)
    _refuse_depth(placeholders.hidden, field=field)
    try:
        html = css_inline.inline(
            placeholders.as_comments(), load_remote_stylesheets=False, keep_at_rules=True
        )
    except css_inline.InlineError as error:
        sentence = f"Template {field}: {error}."
        raise RenderError(sentence, remedy="Correct its styles.") from None
    # Rules whose selectors match nothing are dropped, and a part of Jinja's that stands in them.
    return placeholders.restored(html)


def _as_text(html: str) -> str:
    placeholders = Placeholders(html, field="html")
    text = placeholders.joined_statements(plain_text.from_html(placeholders.hidden))
    made = placeholders.restored(text, must_keep_all=False)
    try:
        sandbox.examine({"text": made})
    except RenderError:
        sentence = "No plain text can be made from this HTML: a tag holds half of a statement."
        raise RenderError(sentence, remedy="Give a text as well.") from None
    return made


def _refuse_depth(source: str, *, field: str) -> None:
    """What is nested deeper than the stack of a compiler would end this process, without a word."""
    depth = 0
    for tag in _TAG.finditer(source):
        depth = max(0, depth - 1) if tag[1] else depth + (not tag[2])
        if depth > DEPTH_MAX:
            sentence = f"Template {field}: more than {DEPTH_MAX:,} elements are open at once."
            raise RenderError(sentence, remedy="Close what needs closing, and nest less.")
