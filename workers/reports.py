"""What is kept of an exception: class, message and traceback, without locals and secrets."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any

from runtime.errors import RelaisError, words_of
from runtime.redaction import redacted
from tasks.outcomes import ErrorReport

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE_MAX_CHARS = 2_000
TRACEBACK_MAX_CHARS = 16_000


def error_report(error: BaseException) -> ErrorReport:
    """`error` as it is kept with the attempt; never fails, whatever `error` is."""
    try:
        text = "".join(_lines(error))
    except BaseException as hindrance:  # noqa: BLE001 - attributes and texts written by anyone
        text = f"(it cannot be shown: {_name(hindrance)})"
    if len(text) > TRACEBACK_MAX_CHARS:
        text = "[...]\n" + text[-TRACEBACK_MAX_CHARS:]
    return ErrorReport(type=_name(error), message=_message(error), traceback=text)


def raised(error: BaseException) -> dict[str, Any]:
    """`error_report` as JSON, with the parts of a RelaisError that make it again elsewhere."""
    content: dict[str, Any] = {"report": error_report(error).as_json()}
    if isinstance(error, RelaisError):
        content["sentence"] = redacted(f"{error.sentence}")
        content["remedy"] = f"{error.remedy}"
    return content


def _lines(error: BaseException) -> Iterator[str]:
    # Frames are our source and the user's; only messages can quote an address or a password.
    for link, joint in _chain(error):
        yield joint
        if link.__traceback__ is not None:
            yield "Traceback (most recent call last):\n"
            yield from traceback.format_tb(link.__traceback__)
        yield f"{_name(link)}: {_message(link)}\n"


def _message(error: BaseException) -> str:
    pydantic = sys.modules.get("pydantic")
    try:
        if pydantic is not None and isinstance(error, pydantic.ValidationError):
            # Its own text quotes the input, which may contain personal data.
            details = error.errors(include_input=False, include_url=False, include_context=False)
            places = (f"{'.'.join(map(str, each['loc']))}: {words_of(each)}" for each in details)
            return "; ".join(places)[:MESSAGE_MAX_CHARS]
        text = "".join(["", str(error)])  # a plain str, whatever `__str__` returned
    except BaseException:  # noqa: BLE001 - a __str__ written by anyone
        text = "(its text cannot be shown)"
    return redacted(text[: 2 * MESSAGE_MAX_CHARS])[:MESSAGE_MAX_CHARS]


def _name(error: BaseException) -> str:
    of = type(error)
    name = type.__dict__["__qualname__"].__get__(of)  # past what its metaclass says
    module = type.__dict__["__module__"].__get__(of)
    return name if module == "builtins" or not isinstance(module, str) else f"{module}.{name}"


def _chain(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """The chain that led to `error`, and `error` itself, each with the phrase that links them."""
    links: list[tuple[BaseException, str]] = []
    link: BaseException | None = error
    while link is not None and all(link is not known for known, _ in links):
        if link.__cause__ is not None:
            links.append((link, "\nThe above was the cause of:\n\n"))
            link = link.__cause__
        elif link.__context__ is not None and not link.__suppress_context__:
            links.append((link, "\nWhile the above was handled:\n\n"))
            link = link.__context__
        else:
            links.append((link, ""))
            link = None
    return reversed(links)
