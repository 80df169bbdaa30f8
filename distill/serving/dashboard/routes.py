"""The dashboard's two routes: the page, and the judgement of a disagreement.

A browser asks for the admin key by HTTP Basic, whatever the user's name. It would send that along
with a form on anybody's page, so a judgement must come from the page itself, as the browser says
(`Sec-Fetch-Site`, or `Origin` where there is none).
"""

import asyncio
import json
import re
import secrets
from base64 import b64decode
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from fastapi import FastAPI, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from distill.config import PricesConfig, load_prices
from distill.errors import InputError, StoreError
from distill.evaluation import formats
from distill.serving.gateway import Gateway, read_body
from distill.store import Store
from distill.types import Decision

if TYPE_CHECKING:
    from distill.serving.dashboard.reference import Reference
    from distill.serving.dashboard.view import View

# What reads figures is imported when somebody looks: it takes seconds, a gateway none.

PATH = "/dashboard"
_SPANS, _DAYS = (1, 7, 30), 7
_MOST_FORM = 1000
_ID = re.compile("[0-9a-f]{32}")
_JUDGEMENTS = {"accept": True, "reject": False, "undo": None}


def attach(app: FastAPI, gateway: Gateway, store: Store) -> None:
    """Add the dashboard to a gateway's app.

    Raises:
        ConfigError: the config names a table of prices that cannot be read.
    """
    path = gateway.config.prices
    prices = None if path is None else load_prices(path)
    template = _template()
    # Read when somebody looks, and once: it may be long.
    reference = cache(lambda: _reference(gateway.config.router))

    def page(days: int) -> Response:
        nonce = secrets.token_urlsafe(16)
        html = template.render(
            view=_view(store, days, prices, reference()),
            mode=gateway.rollout.mode,
            configured=gateway.config.rollout.mode,
            spans=_SPANS,
            path=PATH,
            nonce=nonce,
            fmt=formats,
        )
        # What is recorded may hold halves of characters.
        content = html.encode(errors="replace")
        return Response(content, headers=_headers(nonce), media_type="text/html; charset=utf-8")

    @app.get(PATH, include_in_schema=False)
    def dashboard(request: Request) -> Response:
        _require_admin(request, gateway)
        return page(_days(request))

    @app.post(PATH, include_in_schema=False)
    async def judge(request: Request) -> Response:
        _require_admin(request, gateway)
        _require_own_page(request)
        form = parse_qs((await read_body(request, _MOST_FORM)).decode("latin-1"))
        record, judgement = (form.get(name, [""])[-1] for name in ("id", "judgement"))
        if judgement not in _JUDGEMENTS or not _ID.fullmatch(record):
            raise HTTPException(400, "an id, and a judgement: accept, reject or undo")
        try:
            found = await asyncio.to_thread(store.accept, record, _JUDGEMENTS[judgement])
        except StoreError as error:
            raise HTTPException(503, str(error), {"retry-after": "1"}) from None
        if not found:
            raise HTTPException(404, "no such record")
        return RedirectResponse(f"{PATH}?days={_days(request)}#disagreements", 303)


def _view(
    store: Store, days: int, prices: PricesConfig | None, reference: "Reference | str"
) -> "View":
    from distill.serving.dashboard.view import view  # noqa: PLC0415

    try:
        return view(store, days, datetime.now(UTC), prices=prices, reference=reference)
    except StoreError as error:
        raise HTTPException(503, str(error), {"retry-after": "1"}) from None


def _reference(router: Path) -> "Reference | str":
    from distill.serving.dashboard.reference import reference_of  # noqa: PLC0415

    try:
        return reference_of(router)
    except InputError as error:
        return f"{error.fault}; {error.cure}"  # without the place, a path of the machine


def _days(request: Request) -> int:
    """What the address asks for, where it is a span that there is."""
    asked = request.query_params.get("days", "")
    return int(asked) if asked in map(str, _SPANS) else _DAYS


def _require_admin(request: Request, gateway: Gateway) -> None:
    if gateway.config.access.admin_sha256 is None:
        raise HTTPException(404, "no dashboard without access.admin_sha256")
    if not gateway.access.is_admin(_password(request.headers.get("authorization", ""))):
        challenge = 'Basic realm="distill gateway: the admin key is the password", charset="UTF-8"'
        raise HTTPException(401, "no such admin key", {"www-authenticate": challenge})


def _password(authorization: str) -> str:
    """Of HTTP Basic (RFC 7617); empty where there is none."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return b64decode(given.strip()).decode().partition(":")[2]
    except ValueError:
        return ""


def _require_own_page(request: Request) -> None:
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        own = site == "same-origin"
    else:
        own = origin is not None and urlsplit(origin).netloc == request.headers.get("host")
    if not own:
        raise HTTPException(403, "a judgement comes from the dashboard itself")


def _headers(nonce: str) -> dict[str, str]:
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    return {
        "content-security-policy": policy,
        "cache-control": "no-store",
        "referrer-policy": "same-origin",
        "x-content-type-options": "nosniff",
    }


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decision"] = _decision
    return environment.get_template("page.html.jinja")


def _decision(decision: Decision | None) -> str:
    """Calls with their arguments, a line each."""
    if decision is None:
        return "not known"
    lines = []
    for call in decision.calls:
        arguments = json.dumps(call.arguments, ensure_ascii=False, indent=2)
        lines.append(f"{call.name} {'…' if call.arguments is None else arguments}")
    return "\n".join(lines) or "reply"
