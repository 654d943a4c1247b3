"""The inbox's HTTP interface.

| request                    | answer                                                         |
|----------------------------|----------------------------------------------------------------|
| GET /health                | 200 as soon as the SMTP side listens                           |
| GET /stats                 | messages, distinct, duplicates, refused, deferred              |
| GET /messages              | total, and the newest `limit`; `recipient`, `recipient_domain` |
|                            | and `message_id` narrow it down                                |
| GET /messages/{n}/raw      | the mail as it came                                            |
| POST /callbacks/{name}     | keeps the request                                              |
| GET /callbacks/{name}      | what was posted, oldest first                                  |
| GET /, /messages/{n}       | pages for people; `q` searches, `page` counts from 1           |
| GET /messages/{n}/html     | the mail's HTML, in a sandbox                                  |
| GET /messages/{n}/attach.. | `attachments/{i}`: one of them, to save                        |
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from ops.inbox import page, reading
from ops.inbox.mailbox import Search
from ops.inbox.web import Request, Response, json_response, problem

if TYPE_CHECKING:
    from ops.inbox.callbacks import Callbacks
    from ops.inbox.mailbox import Mailbox

LIMIT_MAX = 10_000
PAGE_MAX = 1_000_000
_MAIL = re.compile(r"/messages/([0-9]{1,12})(?:/(raw|html|attachments/([0-9]{1,4})))?")
_CALLBACK = re.compile(r"/callbacks/([A-Za-z0-9._~-]{1,200})")
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")


def _is_from_here(request: Request) -> bool:
    site, origin = request.header("sec-fetch-site"), request.header("origin")
    own = f"http://{request.header('host')}"
    return site in ("", "same-origin", "none") and origin in ("", own)


class Routes:
    """From a request to a response."""

    def __init__(self, mailbox: Mailbox, callbacks: Callbacks) -> None:
        self._mailbox = mailbox
        self._callbacks = callbacks

    async def answer(self, request: Request) -> Response:
        """The response to `request`; a wrong request is 4xx with a sentence."""
        # A page on some other site must not read the mails by pointing its name at us.
        if re.sub(r":\d+\Z", "", request.header("host")) not in _LOCAL_HOSTS:
            return problem(403, "The inbox responds only to local host names.")
        # Nor may it post here: browsers say where a request comes from, programs do not.
        if request.method == "POST" and not _is_from_here(request):
            return problem(403, "The inbox accepts no requests from other sites' pages.")
        callback = _CALLBACK.fullmatch(request.path)
        if request.method == "POST" and callback:
            await self._callbacks.keep(callback[1], headers=request.headers, body=request.body)
            return json_response({"kept": True})
        if request.method not in ("GET", "HEAD"):
            return problem(405, f"{request.method} is not allowed here.")
        if callback:
            return json_response(self._callbacks.named(callback[1]))
        return await self._page(request) or self._read(request)

    def _read(self, request: Request) -> Response:
        if request.path == "/health":
            return json_response({"status": "ok"})
        if request.path == "/stats":
            return json_response(self._mailbox.stats(request.query.get("recipient_domain", "")))
        if request.path == "/messages":
            return self._messages(request)
        return problem(404, "Not found.")

    async def _page(self, request: Request) -> Response | None:
        """A page for people; made beside the loop, since mail must not wait for it."""
        if request.path == "/":
            number = request.query.get("page", "1")
            if not (number.isascii() and number.isdigit() and 0 < int(number) <= PAGE_MAX):
                return problem(400, f"page is a number from 1 to {PAGE_MAX}.")
            text = request.query.get("q", "")[:200]
            return await asyncio.to_thread(
                page.response, self._mailbox, text=text, number=int(number)
            )
        if found := _MAIL.fullmatch(request.path):
            return await asyncio.to_thread(self._mail, int(found[1]), found[2], found[3])
        return None

    def _mail(self, n: int, part: str | None, index: str | None) -> Response | None:
        raw = self._mailbox.raw(n)
        if raw is None:
            return None
        if part is None:
            return reading.response(n, raw)
        if part == "raw":
            return Response(raw, content_type="text/plain; charset=utf-8")
        if part == "html":
            return reading.html_response(raw)
        return reading.attachment_response(raw, int(index or 0))

    def _messages(self, request: Request) -> Response:
        limit = request.query.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and int(limit) <= LIMIT_MAX):
            return problem(400, f"limit is a number from 0 to {LIMIT_MAX}.")
        search = Search(
            recipient=request.query.get("recipient", ""),
            recipient_domain=request.query.get("recipient_domain", ""),
            message_id=request.query.get("message_id", ""),
        )
        total, messages = self._mailbox.search(search, limit=int(limit))
        return json_response({"total": total, "messages": messages})
