"""Pages for people: /, /docs and the OpenAPI document that they are made from."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from gateway import reference
from gateway.callers import ANYONE, only
from gateway.errors import CODES
from gateway.guard import GuardedRoute
from gateway.responses import JsonResponse
from gateway.services import TheServices

if TYPE_CHECKING:
    from fastapi import FastAPI

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

FOLDER = Path(__file__).parent.parent / "pages"
# One style sheet and one script of our own, which talks to this gateway only; nothing inline,
# no frame, nothing from elsewhere.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; script-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HOST = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")
KEEP = "public, max-age=300"


@router.get("/", openapi_extra=only(ANYONE))
async def root(request: Request, gateway: TheServices) -> Response:
    """What this is, with links."""
    settings = gateway.settings
    has_flower = bool(settings.flower_password.get_secret_value())
    page = (
        _pages()
        .get_template("root.html")
        .render(
            settings=settings,
            url=settings.public_url.rstrip("/") or _address(request),
            flower_url=f"http://{settings.flower_host}:{settings.flower_port}"
            if has_flower
            else "",
        )
    )
    answer = _html(page)
    answer.headers["vary"] = "Host"
    return answer


@router.get("/docs", openapi_extra=only(ANYONE))
async def docs(request: Request) -> Response:
    """The API for people."""
    return _html(_docs_page(request.app))


@router.get("/openapi.json", openapi_extra=only(ANYONE))
async def openapi(request: Request) -> Response:
    """The API for programs."""
    return JsonResponse(_openapi(request.app), headers={"cache-control": KEEP})


@router.get("/relais.css", openapi_extra=only(ANYONE))
async def style() -> Response:
    """The one style sheet."""
    content = (FOLDER / "relais.css").read_bytes()
    return Response(content, media_type="text/css", headers={"cache-control": KEEP})


@router.get("/docs.js", openapi_extra=only(ANYONE))
async def script() -> Response:
    """The script that sends requests from /docs."""
    content = (FOLDER / "docs.js").read_bytes()
    return Response(content, media_type="text/javascript", headers={"cache-control": KEEP})


@router.get("/favicon.ico", openapi_extra=only(ANYONE))
async def icon() -> Response:
    """A small post horn."""
    content = (FOLDER / "relais.svg").read_bytes()
    return Response(content, media_type="image/svg+xml", headers={"cache-control": KEEP})


# Built once: anyone may request both as often as they like.
@lru_cache(maxsize=1)
def _openapi(app: FastAPI) -> bytes:
    return to_json(app.openapi())


@lru_cache(maxsize=1)
def _docs_page(app: FastAPI) -> str:
    document = app.openapi()
    return (
        _pages()
        .get_template("docs.html")
        .render(
            groups=reference.groups(document),
            kinds=reference.kinds(app.state.services.kinds.values()),
            info=document["info"],
            codes=CODES,
        )
    )


def _address(request: Request) -> str:
    """Scheme and host at which the page was opened: part of a command that people paste."""
    host = request.headers.get("host", "")
    return f"{request.url.scheme}://{host}" if _HOST.fullmatch(host) else "$RELAIS_URL"


@lru_cache(maxsize=1)
def _pages() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _html(page: str) -> Response:
    return Response(
        page,
        media_type="text/html",
        headers={"content-security-policy": POLICY, "cache-control": KEEP},
    )
