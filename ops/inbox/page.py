"""The pages for people: mails, newest first; self-contained, no script, nothing loaded."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ops.inbox.mailbox import Search
from ops.inbox.web import Response

if TYPE_CHECKING:
    from ops.inbox.mailbox import Mailbox

SHOWN_MAX = 100

_STYLE = """
:root { color-scheme: light dark; --line: #8883; --soft: #5f6875; --accent: #2f6f4f; }
@media (prefers-color-scheme: dark) { :root { --soft: #a3adba; --accent: #7cc4a0; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0; }
p { color: var(--soft); margin: .2rem 0 1.2rem; }
dl { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; margin: 1.2rem 0; }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
table { width: 100%; border-collapse: collapse; }
th { text-align: left; font-weight: 600; font-size: .8rem; color: var(--soft); }
th, td { padding: .45rem .7rem .45rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.at { white-space: nowrap; color: var(--soft); }
a { color: var(--accent); margin-right: 1rem; }
form { margin: 1rem 0; }
input { font: inherit; padding: .2rem .5rem; width: 22rem; max-width: 100%; }
h2 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
iframe { width: 100%; height: 28rem; border: 1px solid var(--line); background: #fff; }
""".strip()
_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def response(mailbox: Mailbox, *, text: str, number: int) -> Response:
    """Page `number` (from 1) of the mails that contain `text`; every value is escaped."""
    total, mails = mailbox.search(Search(text=text), limit=SHOWN_MAX, skip=(number - 1) * SHOWN_MAX)
    counts = "".join(
        f"<div><dt>{name}</dt><dd>{count:,}</dd></div>" for name, count in mailbox.stats().items()
    )
    first = (number - 1) * SHOWN_MAX + 1
    shown = f"{first:,} to {first + len(mails) - 1:,} of {total:,} mails" if mails else "No mail"
    if text:
        shown += f" with {text} in subject, sender or recipient"
    search = (
        f'<form action="/"><input type="search" name="q" value="{escape(text)}"'
        ' placeholder="Subject, sender or recipient" aria-label="Search"> <button>Search</button>'
        "</form>"
    )
    others = "".join(
        f'<a href="/?{escape(urlencode({"q": text, "page": other}))}">{word}</a>'
        for word, other, is_there in (
            ("Newer", number - 1, number > 1),
            ("Older", number + 1, number * SHOWN_MAX < total),
        )
        if is_there
    )
    about = f"<p>Mail ends here; nothing is forwarded. {escape(shown)}.</p>"
    body = f"{about}<dl>{counts}</dl>{search}{_table(mails)}<p>{others}</p>"
    return page("Relais inbox", body)


def page(title: str, body: str) -> Response:
    """A page of our own around `body`, which is HTML already."""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{title}</h1>{body}</main></body></html>"
    )
    return Response(
        text.encode("utf-8", "replace"),
        content_type="text/html; charset=utf-8",
        headers={"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"},
    )


def _table(mails: list[dict[str, Any]]) -> str:
    if not mails:
        return ""
    rows = "".join(_row(mail) for mail in mails)
    return (
        "<table><thead><tr><th>Received (UTC)</th><th>From</th><th>To</th><th>Subject</th>"
        f'<th class="number">Bytes</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _row(mail: dict[str, Any]) -> str:
    at = mail["received_at"][:19].replace("T", " ")
    subject = escape(mail["subject"]) or "(no subject)"
    return (
        f'<tr><td class="at">{escape(at)}</td><td>{escape(mail["sender"])}</td>'
        f"<td>{escape(mail['recipient'])}</td>"
        f'<td><a href="/messages/{mail["n"]}">{subject}</a></td>'
        f'<td class="number">{mail["size"]:,}</td></tr>'
    )
