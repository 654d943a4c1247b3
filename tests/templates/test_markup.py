"""What is made from a template when it is saved: Jinja's placeholders come through."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.settings import Settings
from tasks.errors import RenderError
from tasks.templates import markup
from tasks.templates.plain_text import tidy
from tasks.templates.sandbox import pieces, render_fields
from workers.isolation.pool import IsolationPool

MJML = """<mjml><mj-head><mj-title>{{ title }}</mj-title>
<mj-attributes><mj-text color="{{ colour }}" /></mj-attributes></mj-head><mj-body>
{% for item in items %}<mj-section><mj-column>{# a note #}
{% if item.price < 9 and "}}" != ">" %}<mj-text>{{ item.name | upper }} &amp; {{ "<x>" }}</mj-text>{% endif %}
<mj-button href="{{ item.url }}?a=1&amp;b={{ item["key"] }}">Go</mj-button>
</mj-column></mj-section>{% endfor %}</mj-body></mjml>"""


@pytest.mark.parametrize(
    ("source", "jinja"),
    [
        ("a{{ b }}c", ["{{ b }}"]),
        ('{{ "}}" }}', ['{{ "}}" }}']),
        ("{% if a > 1 %}{# c #}{{ d }}", ["{% if a > 1 %}", "{# c #}", "{{ d }}"]),
        ("{% raw %}{{ a }}{% endraw %}b", ["{% raw %}{{ a }}{% endraw %}"]),
        ("a { b } c", []),
        ("", []),
    ],
)
def test_a_template_is_cut_into_what_is_jinjas_and_what_is_not(
    source: str, jinja: list[str]
) -> None:
    cut = pieces(source, field="text")
    assert [text for is_jinja, text in cut if is_jinja] == jinja
    assert "".join(text for _, text in cut) == source


def compiled(**parts: Any) -> dict[str, Any]:
    return markup.compile_parts(parts)


def filled(made: dict[str, Any], **variables: Any) -> dict[str, str]:
    fields = {name: made[name] for name in ("html", "text") if made[name] is not None}
    rendered: dict[str, str] = render_fields({"fields": fields, "variables": variables})
    return rendered


def test_plain_text_is_made_from_the_template_not_from_each_mail() -> None:
    made = compiled(
        subject="{{ s }}",
        html='<ul>\n{% for i in items %}\n<li><a href="{{ i.url }}">{{ i.name }}</a></li>\n'
        "{% endfor %}\n</ul><p>&#123;{ &lt;</p>",
    )
    assert made["html"] is None
    assert made["mentions"] == ["items", "s"]
    items = [{"url": "https://a.b", "name": "<A>"}, {"url": "https://c.d", "name": "C"}]
    text = filled(made, items=items)["text"]
    assert text == "- <A> (https://a.b)\n- C (https://c.d)\n\n{ { <"


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"subject": "{{ a"}, "Template subject, line 1: "),
        ({"text": "\n{% endif %}"}, "Template text, line 2: "),
        ({"html": "{% extends 'x' %}"}, "templates cannot include, import or extend others"),
        ({"html": "{{ a | nothing }}"}, "No filter named 'nothing'"),
        ({"html": '<p {% if a %}class="b">{% endif %}'}, "a tag holds half of a statement"),
    ],
)
def test_what_is_wrong_is_said_when_it_is_saved(parts: dict[str, str], sentence: str) -> None:
    with pytest.raises(RenderError, match=sentence.replace("(", "\\(")):
        compiled(**parts)


def test_without_the_packages_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markup, "mjml", None)
    monkeypatch.setattr(markup, "css_inline", None)
    for parts in ({"mjml": "<mjml/>"}, {"html": "x", "inline_css": True}):
        with pytest.raises(RenderError, match=r"relais\[markup\]"):
            compiled(**parts)


def test_mjml_is_compiled_once_and_filled_often() -> None:
    pytest.importorskip("mjml")
    made = compiled(subject="s", mjml=MJML)
    assert made["mentions"] == ["colour", "items", "title"]
    items = [
        {"name": "tea", "price": 1, "url": "https://a.b", "key": "q&r"},
        {"name": "cup", "price": 10, "url": "https://c.d", "key": 1},
    ]
    for colour in ("#123456", "red"):
        out = filled(made, title="T", colour=colour, items=items)
        html = out["html"]
        assert html.count(">Go<") == 2
        assert 'href="https://a.b?a=1&amp;b=q&amp;r"' in html
        assert "TEA &amp; &lt;x&gt;" in html
        assert "CUP" not in html
        assert f"color:{colour}" in html
        assert "<title>T</title>" in html
        text = tidy(out["text"])
        assert text == "TEA & <x>\n\nGo (https://a.b?a=1&b=q&r)\n\nGo (https://c.d?a=1&b=1)"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("<mjml><mj-body>", "unexpected end of stream"),
        ("<mjml>{{ x", "Template mjml, line 1: "),
        ("<mjml><mj-body><mj-nope/></mj-body></mjml>", "<mj-nope> is unknown"),
        (
            '<mjml><mj-body><mj-include path="/etc/passwd"/></mj-body></mjml>',
            "unable to load included template",
        ),
        (
            '<mjml><mj-body><mj-section><mj-column width="{{ w }}"></mj-column></mj-section></mj-body></mjml>',
            "'{{ w }}' stands where nothing can vary",
        ),
        ("<mjml><mj-body>" + "<mj-section>" * 20_000, "more than 500 elements"),
    ],
)
def test_wrong_mjml_is_said_when_it_is_saved(source: str, sentence: str) -> None:
    pytest.importorskip("mjml")
    with pytest.raises(RenderError) as caught:
        compiled(mjml=source)
    assert sentence in str(caught.value)


def test_styles_are_inlined_around_placeholders() -> None:
    pytest.importorskip("css_inline")
    made = compiled(
        inline_css=True,
        html="<style>td{color:red} @media (max-width:9px){td{color:blue}}</style>"
        "<!--[if mso]><p>{{ mso }}</p><![endif]--><title>{{ title }}</title>"
        '<table>{% for row in rows %}<tr><td width="{{ w }}">{{ row }}</td></tr>{% endfor %}</table>',
    )
    html = filled(made, rows=["a", "b"], w=5, title="T", mso="M")["html"]
    assert html.count('<td width="5" style="color: red;">') == 2
    table = html[html.index("<table>") : html.index("</table>")]
    assert table.index("a</td>") < table.index("b</td>")
    assert "<title>T</title>" in html
    assert "<!--[if mso]><p>M</p><![endif]-->" in html
    assert "@media" in html


async def test_it_runs_in_a_process_that_can_read_no_file(tmp_path: Any) -> None:
    settings = Settings.model_validate({"database_url": "postgresql://nobody@127.0.0.1:1/none"})
    async with IsolationPool(settings, size=1) as pool:
        made = await pool.call("compile", {"html": "<p>{{ a }}</p>", "subject": "b"}, 20)
        assert made == {"html": None, "text": "{{ a }}", "mentions": ["a"]}
        if markup.mjml is not None:
            made = await pool.call("compile", {"mjml": MJML}, 20)
            assert made == compiled(mjml=MJML)
        if markup.css_inline is not None:
            styled = {"html": "<style>p{color:red}</style><p>{{ a }}</p>", "inline_css": True}
            assert await pool.call("compile", styled, 20) == compiled(**styled)
