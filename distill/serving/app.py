"""The gateway's app: its routes.

    POST /v1/chat/completions   decided locally, or passed on (`answering`)
    any  /v1/...                passed on
    GET  /healthz               the process is there
    GET  /readyz                and can answer
    GET  /metrics               for Prometheus
    any  /admin/...             the mode, and the config read again (`admin`)

Errors of the gateway's own have the shape of the API's.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from distill.serving import wire
from distill.serving.admin import admin_routes, require_admin
from distill.serving.gateway import Gateway
from distill.serving.metrics import CONTENT_TYPE
from distill.serving.openapi import COMPLETION, RESPONSES, described
from distill.serving.upstream import PREFIX
from distill.serving.watching import Watching
from distill.serving.wire import LimitError

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
Around = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(gateway: Gateway, around: Around = lambda app: nullcontext()) -> FastAPI:
    """The app of one process; it closes the gateway when it ends, and `around` after that."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with around(app):
            await gateway.start()
            yield
            await gateway.close()

    app = FastAPI(title="distill gateway", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Watching, span=gateway.tracing.request, over=gateway.over)
    app.add_exception_handler(HTTPException, _told)  # type: ignore[arg-type]
    app.add_exception_handler(LimitError, _limited)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]

    @app.post(f"{PREFIX}/chat/completions", openapi_extra=COMPLETION, responses=RESPONSES)
    async def chat_completions(request: Request) -> Response:
        """A chat completion: a local decision, or the upstream's answer."""
        return await gateway.chat(request)

    @app.get(f"{PREFIX}/models", responses=RESPONSES)
    async def models(request: Request) -> Response:
        """The upstream's models."""
        return await gateway.passed(request)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is there."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "Not ready."}})
    async def readyz() -> JSONResponse:
        """Whether requests can be answered: records can be kept, or need not be."""
        kept = gateway.store.healthy()
        ready = kept or gateway.config.store.on_failure == "serve"
        value = {"ready": ready, "store": kept}
        if gateway.engine is not None:  # without it, the upstream answers
            value["engine"] = gateway.engine.ready
        return JSONResponse(value, 200 if ready else 503)

    @app.get("/metrics", response_class=Response, responses=described(401))
    def metrics(request: Request) -> Response:
        """What Prometheus reads. Where clients have keys, the admin key is asked for."""
        if gateway.config.access.clients:
            require_admin(gateway.access, request)
        return Response(gateway.metrics.text(), headers={"content-type": CONTENT_TYPE})

    app.include_router(admin_routes(gateway))

    @app.api_route(f"{PREFIX}/{{path:path}}", methods=_METHODS, include_in_schema=False)
    async def passed(request: Request) -> Response:
        return await gateway.passed(request)

    return app


async def _told(request: Request, error: HTTPException) -> Response:
    kinds = {401: "authentication_error", 503: "server_error"}
    return _error(error.status_code, error.detail, kinds.get(error.status_code), error.headers)


async def _limited(request: Request, error: LimitError) -> Response:
    return _error(error.status, str(error))


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    fault = error.errors()[0]
    place = ".".join(map(str, fault["loc"]))
    return _error(422, f"{place}: {fault['msg']}")


def _error(
    status: int,
    message: str,
    kind: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body = wire.error_body(message, kind or "invalid_request_error")
    return Response(body, status, headers, media_type="application/json")
