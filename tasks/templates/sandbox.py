"""Renders callers' templates: sandboxed, bounded, plain data only.

Runs in a child process without secrets (`workers.isolation.inside.child`, role `function`), so this
module imports Jinja and nothing heavy. The same input always gives the same output: there is no
clock, no chance and no way to load anything.

Jinja's sandbox is one wall of four: the child process, its limits on memory, files and time,
and the worker that kills it are the others.
"""

from __future__ import annotations

import codecs
import html  # noqa: F401 - see below
import re
import signal
import textwrap  # noqa: F401 - see below
import threading
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jinja2.debug  # noqa: F401 - see below
from jinja2 import StrictUndefined, meta, nodes
from jinja2.exceptions import TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from tasks.errors import RenderError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType, TracebackType

    from jinja2 import Template

# Jinja imports these when a template first uses a constant or some filter, or fails. By then the
# process can no longer read files (`workers.isolation.inside.seccomp`).
codecs.lookup("unicode-escape")

SOURCE_MAX_CHARS = 1_048_576
OUTPUT_MAX_BYTES = 8_388_608
RANGE_MAX = 10_000
CPU_MAX_S = 5.0
REPEAT_MAX = 1_000_000  # characters or items that one `*` may produce
DEPTH_MAX = 64
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_TYPE_NAMES = frozenset({"str", "int", "float", "bool", "dict", "list", "tuple", "NoneType"})
_GLOBALS = ("dict", "namespace")
_FILTERS_OFF = ("pprint", "random")  # neither plain nor repeatable
_ELSEWHERE = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)


def render_fields(arguments: dict[str, Any]) -> dict[str, Any]:
    """Render `{"fields": {name: source}, "variables": {...}}` to `{name: text}`.

    Optional: `autoescape` (names of fields that are HTML; `html` by default) and
    `output_max_bytes` (over all fields). Raises RenderError with the field and its line.
    """
    fields: dict[str, str] = arguments["fields"]
    variables: dict[str, Any] = arguments.get("variables") or {}
    escaped = arguments.get("autoescape", ["html"])
    left_bytes = min(arguments.get("output_max_bytes", OUTPUT_MAX_BYTES), OUTPUT_MAX_BYTES)
    _refuse_unless_plain(variables, depth=0)
    rendered: dict[str, Any] = {}
    for name, source in fields.items():
        with _told_as_render_error(name, source), _bounded_cpu():
            template = _compiled(source, is_html=name in escaped)
            text = _stream(template, variables, left_bytes=left_bytes)
        left_bytes -= len(text.encode(errors="surrogatepass"))
        rendered[name] = text
    return rendered


def examine(fields: Mapping[str, str]) -> list[str]:
    """The variables that templates use, by name; raises RenderError for the first that is wrong."""
    mentioned: set[str] = set()
    for name, source in fields.items():
        with _told_as_render_error(name, source), _bounded_cpu():
            is_html = name == "html"
            _compiled(source, is_html=is_html)  # it finds what parsing alone does not
            tree = _environment(is_html=is_html).parse(source)
            mentioned |= meta.find_undeclared_variables(tree)
    return sorted(mentioned - {*_GLOBALS, "range"})


def pieces(source: str, *, field: str) -> list[tuple[bool, str]]:
    """`source` cut into (False, its text) and (True, what is Jinja's), in order.

    Raises RenderError, which names `field`, where Jinja cannot read it.
    """
    found: list[tuple[bool, list[str]]] = []
    is_inside = False
    with _told_as_render_error(field, source), _bounded_cpu():
        for _, kind, value in _environment(is_html=True).lex(source):
            if kind.endswith("_begin"):
                is_inside = True
                found.append((True, []))
            elif not is_inside and (not found or found[-1][0]):
                found.append((False, []))
            found[-1][1].append(value)
            is_inside &= not kind.endswith("_end")
    return [(is_jinja, "".join(values)) for is_jinja, values in found]


class _Missing(StrictUndefined):
    """Says which variable is missing, in terms of the template."""

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return self._undefined_hint
        if self._undefined_obj is missing:
            return f"the variable '{self._undefined_name}' is missing"
        return f"there is no {str(self._undefined_name)!r} in {_word(self._undefined_obj)}"


class _Sandbox(ImmutableSandboxedEnvironment):
    """Plain data in, text out; no loader, few globals, arithmetic that cannot explode."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:  # noqa: ANN401 - Jinja's signature
        """A key of JSON data wins over a method of `dict`: `order.items` are its items."""
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Refuse operations whose result is out of proportion to their operands."""
        message = ""
        if operator == "**" and (abs(left) > 1_000_000 or abs(right) > 64):
            message = "a power this large is not allowed"
        elif operator == "*" and (_repetition(left, right) or _repetition(right, left)):
            message = f"a repetition may produce at most {REPEAT_MAX:,}"
        elif operator == "%" and isinstance(left, str):
            message = "use the filter 'format' or '~' to join strings"
        if message:
            raise _TooMuch(message)
        return super().call_binop(context, operator, left, right)


class _TooMuch(Exception):  # noqa: N818 - reads as the refusal it is
    """A limit was exceeded; the text says which."""


class _OutOfTime(BaseException):
    """CPU_MAX_S has been used up; nothing inside a template may catch this."""


def _bounded_range(*bounds: int) -> range:
    made = range(*bounds)
    if len(made) > RANGE_MAX:
        message = f"range() gives at most {RANGE_MAX:,} numbers"
        raise _TooMuch(message)
    return made


@lru_cache(maxsize=2)
def _environment(*, is_html: bool) -> _Sandbox:
    sandbox = _Sandbox(
        autoescape=is_html,
        undefined=_Missing,
        keep_trailing_newline=True,
        cache_size=0,
        auto_reload=False,
    )
    sandbox.globals = {name: sandbox.globals[name] for name in _GLOBALS}
    sandbox.globals["range"] = _bounded_range
    for name in _FILTERS_OFF:
        del sandbox.filters[name]
    return sandbox


@lru_cache(maxsize=64)
def _compiled(source: str, *, is_html: bool) -> Template:
    if len(source) > SOURCE_MAX_CHARS:
        message = f"it is longer than {SOURCE_MAX_CHARS:,} characters"
        raise _TooMuch(message)
    sandbox = _environment(is_html=is_html)
    tree = sandbox.parse(source)
    for node in tree.find_all(_ELSEWHERE):
        message = "templates cannot include, import or extend others"
        raise TemplateSyntaxError(message, node.lineno)
    return sandbox.from_string(tree)


def _stream(template: Template, variables: dict[str, Any], *, left_bytes: int) -> str:
    parts: list[str] = []
    for part in template.generate(variables):
        left_bytes -= len(part.encode(errors="surrogatepass"))
        if left_bytes < 0:
            message = "the output is larger than allowed"
            raise _TooMuch(message)
        parts.append(part)
    return "".join(parts)


@contextmanager
def _told_as_render_error(field: str, source: str) -> Iterator[None]:
    """Turn every error that a template can cause into one sentence, without values."""
    try:
        yield
    except TemplateSyntaxError as error:
        raise _wrong(field, error.lineno, error.message or "it cannot be parsed") from None
    except RecursionError:
        raise _wrong(field, None, "it is nested too deeply") from None
    except MemoryError as error:
        raise _wrong(field, None, "it needs more memory than allowed") from error
    except _OutOfTime:
        raise _wrong(field, None, f"it takes more than {CPU_MAX_S:g} s") from None
    except UndefinedError as error:
        remedy = "Add it to 'variables', or set a default: {{ name | default('') }}."
        text = _without_values(error.message or "", source)
        raise _wrong(field, _line(error), text, remedy=remedy) from None
    except (TemplateError, _TooMuch, SyntaxError) as error:
        text = str(error) if not isinstance(error, SyntaxError) else "it is nested too deeply"
        raise _wrong(field, _line(error), _without_values(text, source)) from None
    except Exception as error:  # noqa: BLE001 - TypeError, ZeroDivisionError ...: the author's
        text = _without_values(str(error), source)
        raise _wrong(field, _line(error), text or type(error).__name__) from None


def _wrong(field: str, line: int | None, text: str, *, remedy: str = "") -> RenderError:
    place = f"{field}, line {line}" if line else field
    return RenderError(f"Template {place}: {text[:500].rstrip('.')}.", remedy=remedy)


def _without_values(text: str, source: str) -> str:
    """`text` without quoted parts that are not in the template: those are values of variables.

    Errors reach traces, Redis and Flower, and the values are those of a recipient.
    """
    for quoted in _QUOTED.finditer(text):
        words = quoted[0][1:-1]
        if words not in _TYPE_NAMES and words not in source:
            # To the last quote: a value may have quotes of its own.
            last = max(text.rfind(mark) for mark in "'\"")
            return f"{text[: quoted.start()]}(a value){text[max(last + 1, quoted.end()) :]}"
    return text


def _line(error: BaseException) -> int | None:
    """The template line in which `error` arose; Jinja's frames carry template lines."""
    line: int | None = None
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


@contextmanager
def _bounded_cpu() -> Iterator[None]:
    """Interrupt loops after CPU_MAX_S of CPU time; what hangs in C is killed from outside."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _interrupt)
    # Repeated, because an exception that hits a destructor is swallowed there.
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_MAX_S, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise _OutOfTime


def _refuse_unless_plain(value: object, *, depth: int) -> None:
    if depth > DEPTH_MAX:
        sentence = f"The variables are nested deeper than {DEPTH_MAX} levels."
        raise RenderError(sentence)
    if type(value) is dict:
        for key, inner in value.items():
            if type(key) is not str:
                sentence = "The variables may only have strings as keys."
                raise RenderError(sentence)
            _refuse_unless_plain(inner, depth=depth + 1)
    elif type(value) is list:
        for inner in value:
            _refuse_unless_plain(inner, depth=depth + 1)
    elif value is not None and type(value) not in {str, int, float, bool}:
        sentence = f"A {type(value).__name__} cannot be passed to a template."
        raise RenderError(sentence, remedy="Use strings, numbers, booleans, lists and objects.")


def _repetition(sequence: object, times: object) -> bool:
    """Whether `sequence * times` is longer than REPEAT_MAX."""
    return (
        isinstance(sequence, str | list | tuple)
        and isinstance(times, int)
        and len(sequence) * times > REPEAT_MAX
    )


def _word(value: object) -> str:
    words = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
    return words.get(type(value), f"a {type(value).__name__}")
