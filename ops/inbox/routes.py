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
| GET /                      | a page for people                                              |
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ops.inbox import page
from ops.inbox.mailbox import Search
from ops.inbox.web import Request, Response, json_response, problem

if TYPE_CHECKING:
    from ops.inbox.callbacks import Callbacks
    from ops.inbox.mailbox import Mailbox

LIMIT_MAX = 10_000
_RAW = re.compile(r"/messages/(\d{1,12})/raw")
_CALLBACK = re.compile(r"/callbacks/([A-Za-z0-9._~-]{1,200})")
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")


class Routes:
    """From a request to a response."""

    def __init__(self, mailbox: Mailbox, callbacks: Callbacks) -> None:
        self._mailbox = mailbox
        self._callbacks = callbacks

    async def answer(self, request: Request) -> Response:
        """The response to `request`; a wrong request is 4xx with a sentence."""
        # A page on some other site must not read the mails by pointing its name at us.
        if re.sub(r":\d+\Z", "", request.header("host")) not in _LOCAL_HOSTS:
            return problem(403, "The inbox answers only under a local name.")
        callback = _CALLBACK.fullmatch(request.path)
        if request.method == "POST" and callback:
            await self._callbacks.keep(callback[1], headers=request.headers, body=request.body)
            return json_response({"kept": True})
        if request.method not in ("GET", "HEAD"):
            return problem(405, f"{request.method} is not possible here.")
        if callback:
            return json_response(self._callbacks.named(callback[1]))
        return self._read(request)

    def _read(self, request: Request) -> Response:
        if request.path == "/health":
            return json_response({"status": "ok"})
        if request.path == "/stats":
            return json_response(self._mailbox.stats(request.query.get("recipient_domain", "")))
        if request.path == "/messages":
            return self._messages(request)
        if request.path == "/":
            return page.response(self._mailbox)
        if raw := _RAW.fullmatch(request.path):
            text = self._mailbox.raw(int(raw[1]))
            if text is not None:
                return Response(text, content_type="text/plain; charset=utf-8")
        return problem(404, "There is nothing here.")

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
