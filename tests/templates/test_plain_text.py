"""Plain text from HTML."""

from __future__ import annotations

import pytest

from tasks.templates.plain_text import from_html, tidy


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Hello   <b>you</b>\n there</p>", "Hello you there"),
        ("<h1>One</h1><p>Two<br>three</p>four", "One\n\nTwo\nthree\n\nfour"),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("<ul><li>a</li><li><p>b</p></li></ul>", "- a\n- b"),
        ("<table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table>", "1 2\n3"),
        ('<a href="https://a.b/c?d=1&amp;e">here</a>', "here (https://a.b/c?d=1&e)"),
        ('<a href="https://a.b">https://a.b</a>', "https://a.b"),
        ('<a href="mailto:a@b.c">a@b.c</a> <a href="#top">up</a>', "a@b.c up"),
        ('<a href="https://a.b"><img src="x" alt="logo"></a>', "logo (https://a.b)"),
        ("<head><title>t</title></head><style>p{}</style>x<script>1</script>", "x"),
        ('<div style="DISPLAY : none">a<br><img src="x"><div>b</div></div>c', "c"),
        ("a<!--[if mso]>b<![endif]-->c", "ac"),
        ("<p>a<hr>b", "a\n\n-----\n\nb"),
        ("&lt;b&gt; &amp; &eacute;&nbsp;", "<b> & é"),
        ("</p></td></a>x<p>", "x"),
        ("", ""),
    ],
)
def test_html_as_text(html: str, text: str) -> None:
    assert from_html(html) == text


def test_what_was_left_out_leaves_no_gaps() -> None:
    assert tidy("\n a  \n\n \n\n\nb\n") == "a\n\nb"
