"""One mail as a person reads it: decoded header, text, HTML in a sandbox, attachments."""

from __future__ import annotations

from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from html import escape

from ops.inbox.mail import decoded
from ops.inbox.page import page
from ops.inbox.web import Response

_SHOWN = ("From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-ID")
# The mail's own HTML: no script, no form, nothing loaded, an origin of its own, and only ever
# inside our frame.
_SANDBOX = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part that is not the mail's text; `name` is the sender's, and may say anything."""

    name: str
    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """What a mail holds; `text` and `html` are None where it has none."""

    header: list[tuple[str, str]]
    text: str | None
    html: str | None
    attachments: list[Attachment]


def read(raw: bytes) -> Reading | None:
    """The parts of `raw`; None where they are nested too deeply to be taken apart."""
    try:
        mail = message_from_bytes(raw)
        parts = [part for part in mail.walk() if not part.is_multipart()]
    except RecursionError:
        return None
    text: str | None = None
    html: str | None = None
    attachments = []
    for part in parts:
        kind, name = part.get_content_type(), part.get_filename()
        is_inline = not name and part.get_content_disposition() != "attachment"
        if is_inline and kind == "text/plain" and text is None:
            text = _text(part)
        elif is_inline and kind == "text/html" and html is None:
            html = _text(part)
        else:
            attachments.append(Attachment(decoded(name or "unnamed"), kind, _content(part)))
    header = [
        (name, decoded(str(value).replace("\r\n", "").replace("\n", "")))
        for name in _SHOWN
        for value in mail.get_all(name, [])
    ]
    return Reading(header, text, html, attachments)


def response(n: int, raw: bytes) -> Response:
    """The page of delivery `n`; every value from the mail is escaped."""
    links = f'<p><a href="/">All mails</a> <a href="/messages/{n}/raw">Source</a></p>'
    found = read(raw)
    if found is None:
        return page("Mail", f"{links}<p>Its parts are nested too deeply to be displayed.</p>")
    rows = "".join(
        f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in found.header
    )
    files = "".join(
        f'<li><a href="/messages/{n}/attachments/{index}">{escape(one.name)}</a>'
        f" {escape(one.content_type)}, {len(one.content):,} bytes</li>"
        for index, one in enumerate(found.attachments)
    )
    body = [links, f"<table>{rows}</table>"]
    if files:
        body.append(f"<h2>Attachments</h2><ul>{files}</ul>")
    if found.html is not None:
        frame = f'<iframe sandbox title="HTML of the mail" src="/messages/{n}/html"></iframe>'
        body.append(f"<h2>HTML</h2>{frame}")
    if found.text is not None:
        body.append(f"<h2>Text</h2><pre>{escape(found.text)}</pre>")
    return page("Mail", "".join(body))


def html_response(raw: bytes) -> Response | None:
    """The mail's HTML, in a sandbox wherever it is opened; None where it has none."""
    found = read(raw)
    if found is None or found.html is None:
        return None
    return Response(
        found.html.encode("utf-8", "replace"),
        content_type="text/html; charset=utf-8",
        headers={"Content-Security-Policy": _SANDBOX, "Referrer-Policy": "no-referrer"},
    )


def attachment_response(raw: bytes, index: int) -> Response | None:
    """Attachment `index` to save, never to open here; None where there is none."""
    found = read(raw)
    if found is None or index >= len(found.attachments):
        return None
    name = "".join(
        c if c.isascii() and (c.isalnum() or c in "._-") else "_"
        for c in found.attachments[index].name
    )
    return Response(
        found.attachments[index].content,
        content_type="application/octet-stream",
        headers={
            "Content-Disposition": f'attachment; filename="{name[:100]}"',
            "Content-Security-Policy": "sandbox; default-src 'none'",
        },
    )


def _content(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _text(part: Message) -> str:
    try:
        return _content(part).decode(part.get_content_charset() or "utf-8", "replace")
    except LookupError:
        return _content(part).decode("utf-8", "replace")  # an unknown charset
