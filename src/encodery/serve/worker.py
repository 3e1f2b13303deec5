"""A worker: models, engine and HTTP in one process, on a socket that the supervisor listens on. `run_frontend`: HTTP
alone, in front of replicas on a cluster.

A worker checks itself: if a smallest request does not pass through the engine any more, the process ends, and the
supervisor starts another. On SIGTERM, and if the supervisor is gone, it accepts nothing more and answers what it has.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from types import FrameType
from typing import TYPE_CHECKING

from fastapi import FastAPI

from encodery.base import machine
from encodery.base.extras import require
from encodery.serve.api_error import ApiError
from encodery.serve.app import make_app
from encodery.serve.backend import LocalBackend
from encodery.serve.cluster import ReplicaAddress, connect
from encodery.serve.connection import timeout_protocol
from encodery.serve.costs import measured_costs
from encodery.serve.engine import EngineSettings, ServingEngine
from encodery.serve.http import HttpSettings
from encodery.serve.models import ServeSettings, open_models
from encodery.serve.served_model import InferenceRequest
from encodery.serve.server_metrics import ServerMetrics

if TYPE_CHECKING:
    import uvicorn

STUCK_EXIT = 70  # EX_SOFTWARE of sysexits.h: the supervisor starts another worker.
WATCH_SECONDS, STUCK_SECONDS = 10.0, 60.0
PARENT_SECONDS = 1.0  # Between checks that the supervisor is there.


def run_worker(
    settings: ServeSettings, engine: EngineSettings, http: HttpSettings, fd: int, report: Callable[[str], None]
) -> None:
    """Serve on the listening socket `fd` until a signal. `report` gets notes for the user. Raises `UserError` for
    models that cannot be served."""
    parent = os.getppid()
    registry, metrics = open_models(settings), ServerMetrics()
    probes = registry.cost_probes if machine.device().type == "cpu" else {}
    costs = measured_costs(registry.models, probes, engine.cores or machine.threads(), report)
    with ServingEngine(registry.models, engine, metrics.record, costs) as running:
        _warm_up(running, registry.health_probes)
        over = threading.Event()
        watch = (running, registry.health_probes, over)
        threading.Thread(target=_watch, args=watch, name="watch", daemon=True).start()

        def on_stop() -> None:
            running.draining = True

        backend = LocalBackend(running, registry.models_info, registry.health_probes)
        app = make_app(backend, http, metrics, engine.request_inputs, running.overload_error)
        _serve(app, http, fd, parent, on_stop)
        over.set()


def run_frontend(address: str, engine: EngineSettings, http: HttpSettings, fd: int) -> None:
    """Serve on `fd` in front of replicas on a cluster, at an address as `ReplicaAddress.to_argument` writes it; the
    models and engines are theirs."""
    parent, metrics = os.getppid(), ServerMetrics()
    app = make_app(connect(ReplicaAddress.parse(address), metrics.record), http, metrics, engine.request_inputs)
    _serve(app, http, fd, parent, lambda: None)


def uvicorn_config(app: FastAPI, http: HttpSettings) -> uvicorn.Config:
    """How uvicorn serves. Connections are kept longer than clients keep theirs, so that none is closed while a client
    starts to use it."""
    config: uvicorn.Config = require("uvicorn", "serve").Config(
        app,
        http=timeout_protocol(http.body_seconds),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=round(http.drain_seconds),
    )
    return config


def _serve(app: FastAPI, http: HttpSettings, fd: int, parent: int, on_stop: Callable[[], None]) -> None:
    """HTTP on the listening socket until a signal, or until the process `parent` is gone; then `on_stop` is called, and
    accepted requests are answered."""
    server = require("uvicorn", "serve").Server(uvicorn_config(app, http))

    def handle_exit(number: int, frame: FrameType | None) -> None:
        app.state.draining = server.should_exit = True
        on_stop()

    server.handle_exit = handle_exit
    over = threading.Event()
    threading.Thread(target=_follow, args=(parent, over), name="follow", daemon=True).start()
    server.run(sockets=[socket.socket(fileno=fd)])
    over.set()


def _warm_up(engine: ServingEngine, probes: Sequence[InferenceRequest]) -> None:
    for request in probes:
        engine.submit(request, urgent=True).future.result()


def _watch(engine: ServingEngine, probes: Sequence[InferenceRequest], over: threading.Event) -> None:
    """End the process if the engine does not answer any more."""
    while not over.wait(WATCH_SECONDS):
        try:
            futures: list[Future[object]] = [engine.submit(request, urgent=True).future for request in probes]  # type: ignore[misc]
            for future in futures:
                future.result(STUCK_SECONDS)
        except ApiError:
            continue  # An engine that drains is not stuck.
        except FutureTimeout:
            os._exit(STUCK_EXIT)


def _follow(parent: int, over: threading.Event) -> None:
    """End as on SIGTERM if the supervisor was killed: nobody else would end its workers."""
    while not over.wait(PARENT_SECONDS):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
