"""Bounces in words: formats from before RFC 3464, and of programs that leave its part out.

Each format has a sentence that no other has, and a way to name recipients. A text that has none of
these sentences is not guessed at.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass

from tasks.email.feedback import report
from tasks.email.feedback.report import Action, Report

LINES_MAX = 1_000
LINE_MAX = 1_000
_REASON_LINES = 12

_TAG = re.compile(r"<[^<>]*>")
_ADDRESS = r"[^\s<>()\[\],;:\"]{1,64}@[^\s<>()\[\],;:\"]{1,255}"
_ANGLE = re.compile(rf"<({_ADDRESS})>(?:\s*\(expanded from[^)]{{0,300}}\))?:?\s*(.*)")
_INDENTED = re.compile(rf"\s+<?({_ADDRESS})>?\s*$")
_EXCHANGE_5 = re.compile(rf"\s*['\"]?({_ADDRESS})['\"]?\s+on\s+.*\d.*")
_NAMED = re.compile(rf"(?:.{{0,200}}?[\s(<])?<?({_ADDRESS})>?\)?")
_FIRST_ADDRESS = re.compile(rf"({_ADDRESS})")
_HOST_SAID = re.compile(r"host (\S{1,255}?)(?:\[[^\]]{1,60}\])? (?:said|refused)|by (\S{3,255})\.$")
_RETURNED = re.compile(
    r"^(?:-+ ?(?:below this line|this is a copy|original message|returned message|"
    r"the header of|unsent message|message header).*|original message headers:|"
    r"-{4,} forwarded message -{4,})$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Format:
    name: str
    sentence: re.Pattern[str]
    recipients: Callable[[list[str]], list[tuple[str, str]]]  # address and reason, in order


def read(text: str, *, failed: str = "") -> tuple[str, list[Report], str] | None:
    """The format's name, its reports, and the returned mail behind them; None: no known format.

    `failed`: the header X-Failed-Recipients, which Exim and Gmail write.
    """
    lines = [line[:LINE_MAX].rstrip() for line in text.split("\n", LINES_MAX)[:LINES_MAX]]
    end = next((i for i, line in enumerate(lines) if _RETURNED.match(line.strip())), len(lines))
    words, returned = lines[:end], "\n".join(lines[end + 1 :])
    joined = " ".join(line.strip() for line in words if line.strip())[:20_000]
    for form in _FORMATS:
        if form.sentence.search(joined):
            named = form.recipients(words)
            if named:
                action = Action.DELAYED if _DELAYED.search(joined) else Action.FAILED
                return form.name, [_report(*each, action) for each in _once(named)], returned
    addresses = _FIRST_ADDRESS.findall(failed)[: report.REPORTS_MAX]
    if addresses:
        action = Action.DELAYED if _DELAYED.search(joined) else Action.FAILED
        said = _reason(words, 0)
        named = [(address, said) for address in addresses]
        return "X-Failed-Recipients", [_report(*each, action) for each in _once(named)], returned
    return None


def without_tags(text: str) -> str:
    """HTML as a rough text, one line for each tag that was there."""
    return html.unescape(_TAG.sub("\n", text))


def _report(address: str, reason: str, action: Action) -> Report:
    host = _HOST_SAID.search(reason)
    return Report(
        action=action,
        status=report.status_in(reason),
        diagnostic=report.one_line(reason),
        final_recipient=address.strip("'.")[: report.ADDRESS_MAX],
        remote_mta=next(filter(None, host.groups()), None) if host else None,
    )


def _once(named: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each address once, with the first reason given for it."""
    first: dict[str, str] = {}
    for address, reason in named[: report.REPORTS_MAX * 2]:
        if not first.get(address.lower()):
            first[address.lower()] = reason
    spelled = {address.lower(): address for address, _ in reversed(named)}
    return [(spelled[a], reason) for a, reason in first.items()][: report.REPORTS_MAX]


def _reason(lines: list[str], start: int, until: Callable[[str], object] | None = None) -> str:
    """The lines from `start` to the next recipient, as one."""
    found: list[str] = []
    for line in lines[start : start + _REASON_LINES]:
        if until is not None and until(line):
            break
        found.append(line.strip())
    return " ".join(filter(None, found))


def _paragraphs(pattern: re.Pattern[str], lines: list[str]) -> list[tuple[str, str]]:
    """Recipients that each begin a line; what follows, up to the next one, is the reason."""
    named = []
    for number, line in enumerate(lines):
        if match := pattern.fullmatch(line):
            rest = match[2] if pattern.groups > 1 else ""
            said = _reason(lines, number + 1, until=pattern.fullmatch)
            named.append((match[1], f"{rest} {said}".strip()))
    return named


def _angles(lines: list[str]) -> list[tuple[str, str]]:
    return _paragraphs(_ANGLE, [line.lstrip() for line in lines])


def _indented(lines: list[str]) -> list[tuple[str, str]]:
    return _paragraphs(_INDENTED, lines)


def _exchange_5(lines: list[str]) -> list[tuple[str, str]]:
    return _paragraphs(_EXCHANGE_5, lines)


def _after_sentence(lines: list[str]) -> list[tuple[str, str]]:
    """One recipient, named in the sentence or right behind it; everything else is the reason."""
    for number, line in enumerate(lines):
        if _TO_WHOM.search(line):
            for candidate in lines[number : number + 5]:
                match = _NAMED.match(_TO_WHOM.sub(" ", candidate, count=1))
                if match:
                    return [(match[1], _diagnostic(lines))]
    return []


def _diagnostic(lines: list[str]) -> str:
    """What the remote host said, where the text introduces it; else the first lines."""
    for number, line in enumerate(lines):
        if _SAID.search(line):
            return _reason(lines, number)
    return _reason(lines, 0)


_DELAYED = re.compile(
    r"warning message only|has not yet been delivered|have not yet been delivered|"
    r"delivery (?:has been|is) delayed|message (?:has been )?delayed|will (?:be retried|retry|keep "
    r"trying)|not been delivered yet|delivery incomplete|temporary problem delivering",
    re.IGNORECASE,
)
_TO_WHOM = re.compile(
    r"delivery (?:has failed )?to (?:the following recipients?(?: failed permanently| failed"
    r"| has been delayed)?|these recipients or (?:groups|distribution lists))|"
    r"(?:your )?message (?:wasn.t|couldn.t be|could not be) delivered to|your message to|"
    r"there was a (?:temporary )?problem delivering your message to",
    re.IGNORECASE,
)
_SAID = re.compile(
    r"response (?:from the remote server )?was|error that the other server returned|"
    r"diagnostic information for administrators|remote server returned|"
    r"technical details of (?:permanent|temporary) failure|generating server",
    re.IGNORECASE,
)


def _sentence(words: str) -> re.Pattern[str]:
    return re.compile(words, re.IGNORECASE)


_FORMATS = (
    _Format(
        "qmail", _sentence(r"this is the \S{0,60} ?program at|this is the qmail-send"), _angles
    ),
    _Format("Postfix", _sentence(r"this is the (?:mail system|postfix program) at host"), _angles),
    _Format(
        "Exim",
        _sentence(
            r"created automatically by mail delivery software|"
            r"message that you sent (?:could not be delivered|has not yet been delivered)"
        ),
        _indented,
    ),
    _Format(
        "Sendmail",
        _sentence(r"following addresses had (?:permanent|transient|delivery) ?\S{0,10} ?errors"),
        _angles,
    ),
    _Format(
        "Exchange 5.5 and 2000",
        _sentence(r"did not reach (?:some or all of )?the (?:intended|following) recipient"),
        _exchange_5,
    ),
    _Format(
        "Yahoo",
        _sentence(r"unable to deliver (?:your )?message to the following address"),
        _angles,
    ),
    _Format(
        "Exchange",
        _sentence(r"delivery has failed to these recipients or (?:groups|distribution lists)"),
        _after_sentence,
    ),
    _Format("Gmail", _sentence(r"delivery to the following recipients?"), _after_sentence),
    _Format(
        "Gmail or Exchange Online",
        _sentence(
            r"message (?:wasn.t|couldn.t be|could not be) delivered to|your message to \S{3,320} "
            r"couldn.t be delivered|problem delivering your message to"
        ),
        _after_sentence,
    ),
)
