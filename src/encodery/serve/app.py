"""The application: routes, health, metrics, documentation and the page, every refusal in one envelope."""

from __future__ import annotations

import time
import traceback
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from encodery.base.errors import nearest
from encodery.serve.api_error import ApiError, as_api_error
from encodery.serve.backend import Backend
from encodery.serve.dispatch import Dispatcher, to_json
from encodery.serve.heads import router as heads_router
from encodery.serve.http import AuthMiddleware, HttpSettings, JsonRoute, OverloadCheck, error_response, validation_error
from encodery.serve.page import FILES, HEADERS, page_file
from encodery.serve.routes import router
from encodery.serve.schemas import ERRORS
from encodery.serve.server_metrics import ServerMetrics

INPUTS = 2048


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The document, without the 422 that FastAPI writes into it: what cannot be used is a 400 here."""
        found = super().openapi()
        for path in found["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            found["components"]["schemas"].pop(name, None)
        return found


def make_app(
    backend: Backend,
    settings: HttpSettings | None = None,
    gauges: ServerMetrics | None = None,
    inputs: int = INPUTS,
    full: OverloadCheck | None = None,
) -> FastAPI:
    """The application over a backend. `inputs`: the most of one request; `full`: what refuses before a body is read."""
    chosen, counts = settings or HttpSettings(), gauges or ServerMetrics()
    app = _App(
        title="encodery",
        version=version("encodery"),
        separate_input_output_schemas=False,
        docs_url=None,
        redoc_url=None,
    )
    app.router.route_class = JsonRoute
    app.state.settings, app.state.asking, app.state.draining = chosen, Dispatcher(backend, inputs), False
    app.include_router(router)
    app.include_router(heads_router)
    _add_state(app, backend, counts)
    app.add_middleware(AuthMiddleware, settings=chosen, gauges=counts, full=full)

    async def known(request: Request, error: Exception) -> Response:
        return error_response(as_api_error(error))

    async def unread(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(validation_error(error))

    async def lost(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = error_response(_lost(app, request, error))
        response.headers.update(error.headers or {})
        return response

    async def broken(request: Request, error: Exception) -> Response:
        traceback.print_exception(error)
        return error_response(as_api_error(error))

    app.add_exception_handler(ApiError, known)
    app.add_exception_handler(RequestValidationError, unread)
    app.add_exception_handler(HTTPException, lost)
    app.add_exception_handler(Exception, broken)
    return app


def _lost(app: FastAPI, request: Request, error: HTTPException) -> ApiError:
    """No such route, or not by this method."""
    if error.status_code == 404:
        near = nearest(request.url.path, app.openapi()["paths"])
        return ApiError(404, "route_not_found", f"There is nothing at '{request.url.path[:200]}'.{near} See /docs.")
    if error.status_code == 405:
        return ApiError(405, "method_not_allowed", f"'{request.url.path[:200]}' does not answer {request.method}.")
    return ApiError(error.status_code, "invalid_request", str(error.detail))


def _add_state(app: FastAPI, backend: Backend, gauges: ServerMetrics) -> None:
    """Routes that tell how the server is."""
    started = int(time.time())

    def models() -> list[dict[str, Any]]:
        return [
            {"id": facts["id"], "object": "model", "created": started, "owned_by": "encodery", "can": [*facts["can"]]}
            for facts in backend.models_info
        ]

    @app.get("/v1/models", tags=["OpenAI"], responses=ERRORS)
    async def list_models() -> Response:
        """What is served."""
        return _json({"object": "list", "data": models()})

    @app.get("/v1/models/{name}", tags=["OpenAI"], responses=ERRORS)
    async def one_model(name: str) -> Response:
        """One model."""
        found = next((one for one in models() if one["id"] == name), None)
        if found is None:
            known = [facts["id"] for facts in backend.models_info]
            raise ApiError(404, "model_not_found", f"There is no model '{name[:200]}'.{nearest(name, known)}", "model")
        return _json(found)

    @app.get("/info", tags=["TEI"], responses=ERRORS)
    async def info() -> Response:
        """Every model with what it can do, and how much is on its way."""
        return _json({"version": version("encodery"), "models": list(backend.models_info), "load": backend.load()})

    @app.get("/health/live", tags=["state"])
    async def live() -> Response:
        """Whether the process answers at all."""
        return _json({"status": "live"})

    @app.get("/health/ready", tags=["state"], responses=ERRORS)
    @app.get("/health", tags=["state"], responses=ERRORS)
    async def ready() -> Response:
        """Whether a smallest request came through the engine, all stages, just now."""
        if app.state.draining:
            raise ApiError(503, "draining", "The server is stopping.", None, 5)
        return _json({"status": "ready", "seconds": await backend.probe()})

    @app.get("/metrics", tags=["state"], responses=ERRORS, response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(gauges.text(), media_type="text/plain; version=0.0.4")

    async def shown(request: Request) -> Response:
        """The page for trying the models, and what it is made of."""
        content, kind = page_file(request.url.path)
        return Response(content, 200, HEADERS, kind)

    for path in FILES:
        app.get(path, include_in_schema=False)(shown)


def _json(body: Any) -> Response:
    return Response(to_json(body), media_type="application/json")
