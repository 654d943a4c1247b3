"""Calendar invitations: iCalendar (RFC 5545) as an alternative of the mail's text (RFC 6047).

Checked roughly: enough that a mail program takes it for an invitation and not for a broken file.
"""

from __future__ import annotations

import re

from tasks.email import parts
from tasks.email.parts import Part

METHODS = (
    "ADD", "CANCEL", "COUNTER", "DECLINECOUNTER", "PUBLISH", "REFRESH", "REPLY", "REQUEST",
)  # fmt: skip
_COMPONENTS = {"VEVENT", "VFREEBUSY", "VJOURNAL", "VTODO"}
_NOT_ONE = "must be one iCalendar object, from BEGIN:VCALENDAR to END:VCALENDAR"
_FOLD = re.compile(r"\r?\n[ \t]")


def checked(calendar: str) -> str:
    """`calendar` itself; ValueError with what is wrong with it."""
    method_of(calendar)
    return calendar


def method_of(calendar: str) -> str:
    """What the invitation asks for (RFC 5546); ValueError with a sentence where it is none."""
    methods: list[str] = []
    components: set[str] = set()
    opened: list[str] = []
    for line in _lines(calendar):
        name, _, value = line.upper().partition(":")
        if name == "BEGIN":
            if not opened and (components or value != "VCALENDAR"):
                break
            opened.append(value)
            components.add(value)
        elif not opened:
            break
        elif name == "END":
            if value != opened.pop():
                message = f"has {line[:60]!r} where another component is open"
                raise ValueError(message)
        elif name == "METHOD" and len(opened) == 1:
            methods.append(value)
    else:
        if components and not opened:
            return _method(methods, components)
    raise ValueError(_NOT_ONE)


def part(calendar: str, *, never: bytes = b"") -> Part:
    """The MIME part of an invitation that was checked; `never` as in `parts.text`."""
    return parts.text(f"calendar; method={method_of(calendar)}", calendar, never=never)


def _method(methods: list[str], components: set[str]) -> str:
    if not components & _COMPONENTS:
        message = f"needs one of {', '.join(sorted(_COMPONENTS))}"
        raise ValueError(message)
    if len(methods) != 1 or methods[0] not in METHODS:
        message = f"needs one METHOD, such as METHOD:REQUEST; known are {', '.join(METHODS)}"
        raise ValueError(message)
    return methods[0]


def _lines(calendar: str) -> list[str]:
    """The lines with their folds undone, without empty ones."""
    unfolded = _FOLD.sub("", calendar)
    return [line.strip() for line in re.split(r"\r\n?|\n", unfolded) if line.strip()]
