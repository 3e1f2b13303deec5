"""The application: routes, health, metrics, the API document and the page; every error in one envelope."""

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
from encodery.serve.http import (
    AuthMiddleware,
    HttpSettings,
    JsonRoute,
    OverloadCheck,
    error_response,
    validation_error,
)
from encodery.serve.page import FILES, HEADERS, page_file
from encodery.serve.routes import router
from encodery.serve.schemas import ERRORS
from encodery.serve.server_metrics import ServerMetrics

MAX_INPUTS = 2048


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The document, without the 422 that FastAPI writes into it: a body that cannot be used is a 400 here."""
        document = super().openapi()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document


def make_app(
    backend: Backend,
    settings: HttpSettings | None = None,
    metrics: ServerMetrics | None = None,
    max_inputs: int = MAX_INPUTS,
    overload: OverloadCheck | None = None,
) -> FastAPI:
    """The ASGI application over a backend. `max_inputs`: of one request; `overload`: refuses before a body is read."""
    settings, metrics = settings or HttpSettings(), metrics or ServerMetrics()
    app = _App(
        title="encodery",
        version=version("encodery"),
        separate_input_output_schemas=False,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.router.route_class = JsonRoute
    app.state.settings, app.state.dispatcher = settings, Dispatcher(backend, max_inputs)
    app.state.draining = False
    app.include_router(router)
    app.include_router(heads_router)
    _add_model_routes(app, backend)
    _add_state_routes(app, backend, metrics)
    _add_page(app)
    app.add_middleware(AuthMiddleware, settings=settings, metrics=metrics, overload=overload)
    _add_error_handlers(app)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Every error leaves in the envelope of `ApiError`."""

    async def api_error(request: Request, error: Exception) -> Response:
        return error_response(as_api_error(error))

    async def invalid_body(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(validation_error(error))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = error_response(_http_error(app, request, error))
        response.headers.update(error.headers or {})
        return response

    async def internal_error(request: Request, error: Exception) -> Response:
        traceback.print_exception(error)
        return error_response(as_api_error(error))

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, invalid_body)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, internal_error)


def _http_error(app: FastAPI, request: Request, error: HTTPException) -> ApiError:
    """No such route, or no such method of it."""
    path = request.url.path
    if error.status_code == 404:
        suggestion = nearest(path, app.openapi()["paths"])
        return ApiError(404, "route_not_found", f"There is no route '{path[:200]}'.{suggestion} See /docs.")
    if error.status_code == 405:
        return ApiError(405, "method_not_allowed", f"'{path[:200]}' does not support {request.method}.")
    return ApiError(error.status_code, "invalid_request", str(error.detail))


def _add_model_routes(app: FastAPI, backend: Backend) -> None:
    """The models, in OpenAI's and TEI's format."""
    started = int(time.time())

    def models() -> list[dict[str, Any]]:
        return [
            {
                "id": info["id"],
                "object": "model",
                "created": started,
                "owned_by": "encodery",
                "operations": [*info["operations"]],
            }
            for info in backend.models_info
        ]

    @app.get("/v1/models", tags=["OpenAI"], responses=ERRORS)
    async def list_models() -> Response:
        """The models of this server."""
        return _json({"object": "list", "data": models()})

    @app.get("/v1/models/{name}", tags=["OpenAI"], responses=ERRORS)
    async def one_model(name: str) -> Response:
        """One model."""
        model = next((model for model in models() if model["id"] == name), None)
        if model is None:
            known = [info["id"] for info in backend.models_info]
            message = f"There is no model '{name[:200]}'.{nearest(name, known)}"
            raise ApiError(404, "model_not_found", message, "model")
        return _json(model)

    @app.get("/info", tags=["TEI"], responses=ERRORS)
    async def info() -> Response:
        """Every model with its operations, and the numbers of pending requests and tokens."""
        body = {"version": version("encodery"), "models": list(backend.models_info), "load": backend.load()}
        return _json(body)


def _add_state_routes(app: FastAPI, backend: Backend, metrics: ServerMetrics) -> None:
    """Health and metrics."""

    @app.get("/health/live", tags=["state"])
    async def live() -> Response:
        """Whether the process answers at all."""
        return _json({"status": "live"})

    @app.get("/health/ready", tags=["state"], responses=ERRORS)
    @app.get("/health", tags=["state"], responses=ERRORS)
    async def ready() -> Response:
        """Whether a smallest request passes through all stages of the engine now."""
        if app.state.draining:
            raise ApiError(503, "draining", "The server is stopping.", None, 5)
        return _json({"status": "ready", "seconds": await backend.probe()})

    @app.get("/metrics", tags=["state"], responses=ERRORS, response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Metrics for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")


def _add_page(app: FastAPI) -> None:
    """The page for trying the models."""

    async def page(request: Request) -> Response:
        """The page for trying the models, and its files."""
        content, content_type = page_file(request.url.path)
        return Response(content, 200, HEADERS, content_type)

    for path in FILES:
        app.get(path, include_in_schema=False)(page)


def _json(body: Any) -> Response:
    return Response(to_json(body), media_type="application/json")
