from __future__ import annotations

import base64
import hashlib
import re
import socket
from pathlib import Path

import pytest

from tests.inbox.conftest import Inbox, StartInbox


def send(inbox: Inbox, subject: str, *, recipient: str = "a@example.org") -> None:
    with inbox.smtp() as smtp:
        smtp.sendmail(
            "s@example.org",
            [recipient],
            f"Subject: {subject}\r\nMessage-ID: <{subject[:3]}@t>\r\n\r\nx\r\n",
        )


def test_health(inbox: Inbox) -> None:
    assert inbox.http.get("/health").json() == {"status": "ok"}


def test_messages_are_newest_first_and_narrowed_down(inbox: Inbox) -> None:
    for n in range(5):
        send(inbox, f"{n}", recipient=f"{n % 2}@d{n % 2}.example.org")
    assert [shown["subject"] for shown in inbox.messages(limit=2)["messages"]] == ["4", "3"]
    assert inbox.messages(limit=0) == {"total": 5, "messages": []}
    assert inbox.messages(recipient="1@d1.example.org")["total"] == 2
    assert inbox.messages(recipient_domain="D0.example.org")["total"] == 3
    assert inbox.messages(message_id="<3@t>", recipient="1@d1.example.org")["total"] == 1
    assert inbox.messages(message_id="<3@t>", recipient="0@d0.example.org")["total"] == 0


def test_callbacks_are_kept_as_they_came(start_inbox: StartInbox, tmp_path: Path) -> None:
    first = start_inbox(tmp_path)
    body = '{"état": "ok"}\n'.encode()
    assert (
        first.http.post("/callbacks/done", content=body, headers={"Webhook-Id": "m1"}).status_code
        == 200
    )
    assert first.http.post("/callbacks/done", content=b"\xff\x00").status_code == 200
    assert first.http.get("/callbacks/other").json() == []
    first.process.kill()
    first.process.wait()
    [one, two] = start_inbox(tmp_path).http.get("/callbacks/done").json()
    assert one["body"] == body.decode()
    assert ["webhook-id", "m1"] in one["headers"]
    assert two["body"] is None
    assert base64.b64decode(two["body_base64"]) == b"\xff\x00"


def test_the_page_escapes_and_loads_nothing(inbox: Inbox) -> None:
    send(inbox, "<script>alert(1)</script>&\"'", recipient="'\"<b>@example.org")
    answer = inbox.http.get("/")
    assert "<script" not in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in answer.text
    assert not re.search(r'(src|href)="(?!/messages/\d+")', answer.text)
    policy = answer.headers["content-security-policy"]
    [style] = re.findall("<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")


def test_the_raw_text_is_never_run_as_html(inbox: Inbox) -> None:
    send(inbox, "x")
    answer = inbox.http.get("/messages/1/raw")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/messages/1/raw", 404),
        ("GET", "/messages/0/raw", 404),
        ("GET", "/messages?limit=-1", 400),
        ("GET", "/messages?limit=10001", 400),
        ("DELETE", "/messages", 405),
        ("POST", "/callbacks/a%2Fb", 405),
        ("HEAD", "/", 200),
    ],
)
def test_wrong_requests(inbox: Inbox, method: str, path: str, status: int) -> None:
    assert inbox.http.request(method, path).status_code == status


def test_another_host_name_is_refused(inbox: Inbox) -> None:
    assert inbox.http.get("/messages", headers={"Host": "evil.example.org"}).status_code == 403
    assert inbox.http.get("/messages", headers={"Host": "localhost:8082"}).status_code == 200


HOSTILE = b"""\
From: =?utf-8?q?Zo=C3=AB?= <z@example.org>\r
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe_<b>?=\r
Content-Type: multipart/mixed; boundary=x\r
\r
--x\r
Content-Type: text/html; charset=utf-8\r
\r
<script>alert(1)</script><img src=http://127.0.0.1:1/>\r
--x\r
Content-Type: text/html; name="<i>.html"\r
Content-Disposition: attachment; filename="a\\"<i>.html"\r
\r
<script>alert(2)</script>\r
--x--\r
"""


def test_a_mail_is_shown_decoded_and_its_html_only_in_a_sandbox(inbox: Inbox) -> None:
    with inbox.smtp() as smtp:
        smtp.sendmail("s@example.org", ["a@example.org"], HOSTILE)
    shown = inbox.http.get("/messages/1")
    assert "Zoë &lt;z@example.org&gt;" in shown.text
    assert "Grüße &lt;b&gt;" in shown.text
    assert "<script" not in shown.text
    assert "<i>" not in shown.text
    assert '<iframe sandbox title="HTML of the mail" src="/messages/1/html">' in shown.text
    html = inbox.http.get("/messages/1/html")
    assert "<script>alert(1)" in html.text
    assert html.headers["content-security-policy"].startswith("sandbox; default-src 'none'; ")
    assert "script-src" not in html.headers["content-security-policy"]
    attached = inbox.http.get("/messages/1/attachments/0")
    assert attached.text.strip() == "<script>alert(2)</script>"
    assert attached.headers["content-type"] == "application/octet-stream"
    assert re.fullmatch(r'attachment; filename="[\w.-]+"', attached.headers["content-disposition"])
    for path in ("/messages/1/attachments/1", "/messages/2", "/messages/2/html"):
        assert inbox.http.get(path).status_code == 404


def test_the_page_searches_and_shows_every_mail(inbox: Inbox) -> None:
    for first in range(0, 101, 50):
        with inbox.smtp() as smtp:
            for n in range(first, min(first + 50, 101)):
                smtp.sendmail(
                    "s@example.org", ["a@example.org"], f"Subject: mail {n}!\r\n\r\nx\r\n"
                )
    newest, oldest = inbox.http.get("/").text, inbox.http.get("/?page=2").text
    assert "mail 100!" in newest
    assert "mail 0!" not in newest
    assert 'href="/?q=&amp;page=2"' in newest
    assert "mail 0!" in oldest
    found = inbox.http.get("/", params={"q": "MAIL 7!"}).text
    assert re.findall(r"mail \d+!", found) == ["mail 7!"]
    assert inbox.http.get("/?page=0").status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example.org"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"},
    ],
)
def test_a_page_of_another_site_cannot_post(inbox: Inbox, headers: dict[str, str]) -> None:
    assert inbox.http.post("/callbacks/x", content=b"1", headers=headers).status_code == 403
    assert inbox.http.get("/callbacks/x").json() == []


def test_a_body_beyond_the_limit_is_refused(inbox: Inbox) -> None:
    assert inbox.http.post("/callbacks/x", content=b"x" * 8_388_609).status_code == 413
    assert inbox.http.get("/callbacks/x").json() == []


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /"]
)
def test_what_is_no_http_ends_the_connection(inbox: Inbox, sent: bytes) -> None:
    with socket.create_connection(
        ("127.0.0.1", int(inbox.started["http_port"])), timeout=5
    ) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert inbox.http.get("/health").status_code == 200
