"""Bounces that come as mails: delivery status notifications after RFC 3464, and older formats.

`read` never raises and takes bounded time, whatever the mail contains. Replies of people and of
their vacation programs are no reports.
"""

from __future__ import annotations

import re
from dataclasses import replace

from tasks.email.feedback import mail_reader, original, report, text_bounces
from tasks.email.feedback.mail_reader import Headers, Part
from tasks.email.feedback.original import Original
from tasks.email.feedback.report import Action, Reading, Report

_STATUS_PARTS = {"message/delivery-status", "message/global-delivery-status"}
_OTHER_REPORTS = {
    "disposition-notification": "it says that a mail was read (RFC 8098), not whether it came",
    "feedback-report": "it is a complaint (RFC 5965), which arf reads",
}
_RECIPIENT_FIELDS = {"final-recipient", "original-recipient", "action"}
_ACTIONS = {action.value: action for action in Action} | {
    "failure": Action.FAILED,
    "delay": Action.DELAYED,
    "success": Action.DELIVERED,
}
_BY_CLASS = {"5": Action.FAILED, "4": Action.DELAYED, "2": Action.DELIVERED}
_UNICODE = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")  # RFC 6533 section 3
_DAEMON = re.compile(
    r"(?:^|[<\s\"])(?:mailer-daemon|postmaster|mail-daemon|mailerdaemon|"
    r"microsoftexchange[0-9a-f]{32})(?:@|>|\s|$)",
    re.IGNORECASE,
)
_AUTO_REPLY_FIELDS = ("x-autoreply", "x-autorespond", "x-autoresponder", "x-auto-reply")


def read(raw: bytes, *, envelope_to: str | None = None) -> Reading:
    """What `raw` reports of each recipient.

    `envelope_to`: the address that it was delivered to, where the mail system tells it; a token
    may stand there and nowhere else.
    """
    mail = mail_reader.parse(raw)
    found = original.find(mail, envelope_to=envelope_to)
    status = next((part for part in mail.walk() if part.content_type in _STATUS_PARTS), None)
    if status is not None:
        reading = _standard(status, found)
        if reading.is_report:
            return reading
    if why := _why_no_bounce(mail):
        return Reading((), why)
    return _in_words(mail, found)


def _standard(part: Part, found: Original) -> Reading:
    """RFC 3464: a block for the message, then one for each recipient."""
    message = Headers(())
    reports: list[Report] = []
    for block in _blocks(part.decoded()):
        if any(name in _RECIPIENT_FIELDS for name, _ in block.fields):
            reports.append(_of_block(block))
        else:
            message = block
    named = [v for v in message.all("x-original-message-id") if v]
    message_id = found.message_id or original.first_message_id(named)
    return Reading(
        tuple(replace(one, message_id=message_id, token=found.token) for one in reports),
        "a delivery status notification after RFC 3464",
        envelope_id=report.one_line(message.get("original-envelope-id")),
    )


def _blocks(body: bytes) -> list[Headers]:
    """The groups of fields; one that names a second recipient is taken apart."""
    blocks: list[Headers] = []
    rest = body.replace(b"\r\n", b"\n").lstrip(b"\n")
    while rest and len(blocks) < report.REPORTS_MAX:
        block, behind = mail_reader.read_headers(rest)
        if len(behind) == len(rest):  # a line that is no field: leave it out
            behind = rest.partition(b"\n")[2]
        rest = behind.lstrip(b"\n")
        current: list[tuple[str, str]] = []
        for name, value in block.fields:
            if name == "final-recipient" and any(n == name for n, _ in current):
                blocks.append(Headers(tuple(current)))
                current = []
            current.append((name, value))
        if current:
            blocks.append(Headers(tuple(current)))
    return blocks[: report.REPORTS_MAX]


def _of_block(block: Headers) -> Report:
    diagnostic = _untyped(block.get("diagnostic-code"))
    stated = report.status_in(block.get("status"))
    action = _ACTIONS.get(block.get("action").partition("(")[0].strip().lower())
    status = _more_exact(stated, report.status_in(diagnostic))
    if action is None:
        action = _BY_CLASS[status[0]] if status else Action.FAILED
    return Report(
        action=action,
        status=status,
        diagnostic=report.one_line(diagnostic),
        final_recipient=_address(block.get("final-recipient")),
        original_recipient=_address(block.get("original-recipient")),
        remote_mta=report.one_line(_untyped(block.get("remote-mta")).partition(" (")[0]),
    )


def _more_exact(stated: str | None, said: str | None) -> str | None:
    """The status field, or what the remote host said where the field is missing or x.0.0.

    Exim and others state 5.0.0 for everything, and quote a reply that is exact.
    """
    if stated is None or (said and stated.endswith(".0.0") and said[0] == stated[0]):
        return said
    return stated


def _untyped(value: str) -> str:
    """`rfc822; a@example.org` or `smtp; 550 No` without its type."""
    kind, semicolon, rest = value.partition(";")
    return rest.strip() if semicolon and " " not in kind.strip() else value.strip()


def _address(value: str) -> str | None:
    address = _untyped(value).strip("<> \t")
    address = _UNICODE.sub(_character, address)
    if not 0 < len(address) <= report.ADDRESS_MAX or any(c.isspace() for c in address):
        return None
    return address


def _character(match: re.Match[str]) -> str:
    number = int(match[1], 16)
    is_character = 0x20 < number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF
    return chr(number) if is_character else match[0]


def _why_no_bounce(mail: Part) -> str | None:
    """Why this mail is not even worth reading as a bounce in words; None: it may be one."""
    kind = mail.parameters.get("report-type", "").lower()
    if mail.content_type == "multipart/report" and kind in _OTHER_REPORTS:
        return _OTHER_REPORTS[kind]
    headers = mail.headers
    if headers.get("x-failed-recipients"):
        return None  # Exim's and Gmail's, which call themselves auto-replied
    automatic = re.split(r"[;(\s]", headers.get("auto-submitted").strip().lower())[0]
    is_daemon = bool(_DAEMON.search(headers.get("from")[:1_000]))
    if automatic == "auto-replied" and not is_daemon:
        return "it is an automatic reply (Auto-Submitted: auto-replied)"
    precedence = headers.get("precedence").strip().lower()
    if precedence == "auto_reply" or headers.all(*_AUTO_REPLY_FIELDS):
        return "it is an automatic reply of a vacation program"
    if not is_daemon and headers.get("return-path").strip() != "<>":
        return "it is an ordinary mail: no status part, and not from a mail system"
    return None


def _in_words(mail: Part, found: Original) -> Reading:
    text = _first_text(mail)
    known = text_bounces.read(text, failed=mail.headers.get("x-failed-recipients"))
    if known is None:
        return Reading((), "it comes from a mail system, but in no format of bounces known here")
    name, reports, returned = known
    message_id = found.message_id
    token = found.token
    if message_id is None or token is None:
        # Older formats quote the returned mail within the text.
        behind, _ = mail_reader.read_headers(returned.lstrip().encode("utf-8", "replace"))
        message_id = message_id or original.first_message_id(behind.all("message-id"))
        token = token or original.token_of(behind)
    return Reading(
        tuple(replace(one, message_id=message_id, token=token) for one in reports),
        f"a bounce in words: {name}",
    )


def _first_text(mail: Part) -> str:
    leaves = [part for part in mail.walk() if not part.parts]
    for part in leaves:
        if part.content_type in {"text/plain", "text", ""}:
            return part.text()
    for part in leaves:
        if part.content_type == "text/html":
            return text_bounces.without_tags(part.text())
    return ""
