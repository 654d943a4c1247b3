from __future__ import annotations

import contextlib
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape

from tasks.errors import RenderError
from tasks.templates import sandbox
from tasks.templates.sandbox import render_fields

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def render(source: str, variables: dict[str, object] | None = None, **more: object) -> str:
    arguments = {"fields": {"text": source}, "variables": variables or {}, **more}
    text = render_fields(arguments)["text"]
    assert isinstance(text, str)
    return text


def refusal(source: str, variables: dict[str, object] | None = None, **more: object) -> str:
    with pytest.raises(RenderError) as caught:
        render(source, variables, **more)
    return caught.value.sentence


def test_fields_share_their_variables_and_only_html_is_escaped() -> None:
    rendered = render_fields(
        {
            "fields": {"subject": "Hi {{ n }}", "text": "{{ n }}\n", "html": "<p>{{ n }}</p>"},
            "variables": {"n": "Zoë & <Max>"},
        }
    )
    assert rendered == {
        "subject": "Hi Zoë & <Max>",
        "text": "Zoë & <Max>\n",
        "html": "<p>Zoë &amp; &lt;Max&gt;</p>",
    }


def test_what_templates_of_mails_use() -> None:
    order = {"items": [{"name": "tea", "price": 3.5}, {"name": "cups", "price": 12}], "keys": "k"}
    source = (
        "{% macro line(i) %}{{ loop_index }}{{ i.name|upper }} {{ '%.2f'|format(i.price) }}{% endmacro %}"
        "{% set total = namespace(sum=0) %}"
        "{% for i in order.items if i.price > 1 %}{{ loop.index }}. {{ line(i) }}{{ ', ' if not loop.last }}"
        "{% set total.sum = total.sum + i.price %}{% endfor %} = {{ total.sum }}"
        "{% if order.keys is defined %} {{ order.keys }}{% endif %}"
    ).replace("{{ loop_index }}", "")
    assert render(source, {"order": order}) == "1. TEA 3.50, 2. CUPS 12.00 = 15.5 k"


def test_the_same_input_gives_the_same_output() -> None:
    assert "random" not in sandbox._environment(is_html=False).filters
    assert set(sandbox._environment(is_html=True).globals) == {"dict", "namespace", "range"}


PRIVATE = "zoe@private.example"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ value|filesizeformat }}", "could not convert string to float: (a value)"),
        ("{{ known[value] }}", "there is no (a value) in an object"),
        ("{{ known|attr(value) }}", None),
        ("{{ value.nothing }}", "there is no 'nothing' in a text"),
        ("{{ value + 1 }}", "can only concatenate str"),
        ("{{ '%d'|format(value) }}", None),
        ("{{ value.index('x') }}", None),
        ("{{ '{:d}'.format(value) }}", None),
        ("{{ value.format() }}", None),
        ("{{ namespace(**{value: 1}).x.y }}", None),
        ("{{ {}|dictsort(by=value) }}", None),
        ("{{ range(**{value: 1}) }}", None),
        ("{{ value|upper|filesizeformat }}", None),
        ("{{ (value ~ value)|filesizeformat }}", None),
        ("{% for i in known %}{{ known[i][value] }}{% endfor %}", None),
    ],
)
def test_errors_do_not_quote_what_the_variables_hold(source: str, words: str | None) -> None:
    """They reach traces, Redis and Flower; a template is its author's, a value a recipient's."""
    for value in (PRIVATE, "{zoe@private.example}", 'it\'s "zoe@private.example"', "4711081519"):
        if "float" in (words or "") and value.isdecimal():
            continue
        try:
            render(source, {"value": value, "known": {"a": "b"}})
        except RenderError as error:
            told = str(error)
            assert "private" not in told.lower(), told
            assert "4711081519" not in told, told
            if words is not None:
                assert words in told


@pytest.mark.parametrize(
    ("source", "variables", "sentence"),
    [
        ("Hi\n{{ name }}", {}, "Template text, line 2: the variable 'name' is missing."),
        ("{{ a.b }}", {"a": {}}, "Template text, line 1: there is no 'b' in an object."),
        ("{{ a.b.c }}", {"a": {"c": 1}}, "Template text, line 1: there is no 'b' in an object."),
        ("{{ a[3] }}", {"a": [1]}, "Template text, line 1: there is no '3' in a list."),
        ("\n\n{{ 1 / n }}", {"n": 0}, "Template text, line 3: division by zero."),
        ("{{ n + 'a' }}", {"n": 1}, "Template text, line 1: unsupported operand type(s) for +: 'int' and 'str'."),
        ("{% if x %}", {}, "Template text, line 1: Unexpected end of template."),
        ("\n{{ x | nosuch }}", {}, "Template text, line 2: No filter named 'nosuch'."),
        ("{{ 'a' | random }}", {}, "Template text, line 1: No filter named 'random'."),
    ],
)  # fmt: skip
def test_errors_name_the_line(source: str, variables: dict[str, object], sentence: str) -> None:
    told = refusal(source, variables)
    assert told.startswith(sentence.rstrip(".")), told


@pytest.mark.parametrize(
    "line",
    ["{% include 'x' %}", "{% import 'x' as x %}", "{% extends 'x' %}", "{% from 'x' import y %}"],
)
def test_nothing_is_loaded(line: str) -> None:
    assert "cannot include, import or extend" in refusal(f"\n{line}")


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ [].__class__.__base__ }}",
    "{{ ''['__class__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ '' | attr('__cla' ~ 'ss__') }}",
    "{{ [''] | map(attribute='__class__') | list }}",
    "{{ [''] | map('attr', '__class__') | list }}",
    "{{ ['a'] | groupby('__class__') }}",
    "{{ ['a'] | selectattr('__class__') | list }}",
    "{{ ['a'] | sum(attribute='__class__') }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{{ ('{0.__class__}' | attr('format'))('') }}",
    "{% set f = '{0.__class__}'.format %}{{ f('') }}",
    "{{ ('%s' | safe).format.__globals__ }}",
    "{{ ('{0.__class__}' | escape).format(1) }}",
    "{{ range.__init__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.__subclasses__() }}",
    "{{ self.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ loop }}",
    "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m.__call__.__func__ }}",
    "{{ caller }}",
    "{{ cycler }}",
    "{{ lipsum.__globals__ }}",
    "{{ joiner }}",
    "{{ config }}",
    "{{ items.append(2) }}",
    "{{ items.clear() }}",
    "{{ data.update({'a': 1}) }}",
    "{{ data.__setitem__('a', 1) }}",
    "{{ data.pop('x') }}",
    "{% do items.append(1) %}",
    "{{ ''.join.__self__.__class__ }}",
    "{{ 1 | pprint }}",
]


@pytest.mark.parametrize("source", ESCAPES)
@pytest.mark.parametrize("escaped", [(), ("text",)])
def test_the_sandbox_holds(source: str, escaped: tuple[str, ...]) -> None:
    variables: dict[str, object] = {"items": [1], "data": {"x": 1}}
    try:
        text = render(source, variables, autoescape=escaped)
    except RenderError:
        pass
    else:  # Jinja may answer an unsafe attribute with an undefined value that prints nothing
        assert "class" not in text
        assert "object at" not in text
        assert "function" not in text
    assert variables == {"items": [1], "data": {"x": 1}}


BOMBS = [
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ [1] * 10**9 }}",
    "{{ 9**9**9 }}",
    "{{ 2**10000 }}",
    "{{ (2**64)**64 }}",
    "{{ '%09999999d' % 1 }}",
    "{% for i in range(100000) %}{% endfor %}",
    "{{ range(10**12) | list }}",
    "{{ range(10000) | join('x' * 1000) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ " + "(" * 2_000 + "1" + ")" * 2_000 + " }}",
    "{{ " + "-" * 100_000 + "1 }}",
    "{% if 1 %}" * 500 + "{% endif %}" * 500,
    "{{ " + "[" * 500 + "]" * 500 + " }}",
    "{{ " + " + ".join(["1"] * 50_000) + " }}",
    "x" * (sandbox.SOURCE_MAX_CHARS + 1),
]


@pytest.mark.parametrize("source", BOMBS, ids=[each[:30] for each in BOMBS])
def test_small_bombs_are_refused_at_once(source: str) -> None:
    refusal(source, output_max_bytes=1_000_000)


LOOPS = [
    "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% set s = namespace(v='ab') %}{% for a in range(10000) %}{% for b in range(10000) %}{% set s.v = s.v | reverse %}{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("source", LOOPS)
def test_loops_end(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CPU_MAX_S", 0.2)
    assert "takes more than" in refusal(source)


def test_output_is_capped_while_it_is_made() -> None:
    assert "larger than allowed" in refusal(
        "{% for i in range(10) %}abcdé{% endfor %}", output_max_bytes=59
    )
    assert len(render("{% for i in range(10) %}abcdé{% endfor %}", output_max_bytes=60)) == 50


def test_the_cap_is_for_all_fields_together() -> None:
    with pytest.raises(RenderError, match="Template text: the output is larger"):
        render_fields({"fields": {"subject": "12345", "text": "12345"}, "output_max_bytes": 9})


def test_only_plain_data_goes_in() -> None:
    for value in (object(), b"bytes", {1: 2}, {"a": {1, 2}}, [threading]):
        with pytest.raises(RenderError):
            render_fields({"fields": {"text": "x"}, "variables": {"v": value}})
    deep: object = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(RenderError, match="nested deeper"):
        render_fields({"fields": {"text": "x"}, "variables": {"v": deep}})


def test_it_works_outside_the_main_thread_too() -> None:
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(render("{{ 1 + 1 }}")))
    thread.start()
    thread.join()
    assert results == ["2"]


@settings(deadline=None)  # a busy machine is no error
@given(value=st.text())
def test_html_escapes_whatever_comes(value: str) -> None:
    rendered = render_fields({"fields": {"html": "{{ v }}"}, "variables": {"v": value}})
    assert rendered["html"] == str(escape(value))


@settings(deadline=None)  # a busy machine is no error
@given(source=st.text(alphabet="{}%#ab.|()[]'\"+-*/~ \n", max_size=80), value=JSON)
def test_nothing_but_a_render_error_comes_out(source: str, value: object) -> None:
    with contextlib.suppress(RenderError):
        render(source, {"a": value, "b": "b"})
