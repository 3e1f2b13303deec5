"""A worker: models, engine and HTTP in one process, on a socket that the supervisor listens at; `front`: HTTP alone.

It watches itself: where a smallest request does not come through the engine any more, the process ends, and the
supervisor starts another. On SIGTERM, and where the supervisor is gone, it takes nothing more and answers what it has
accepted.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from types import FrameType
from typing import TYPE_CHECKING

from fastapi import FastAPI

from encodery.base import machine
from encodery.base.extras import require
from encodery.serve.api_error import ApiError
from encodery.serve.app import make_app
from encodery.serve.backend import LocalBackend
from encodery.serve.cluster import ReplicaAddress, connect
from encodery.serve.connection import patient
from encodery.serve.costs import measured_costs
from encodery.serve.engine import EngineSettings, ServingEngine
from encodery.serve.http import HttpSettings
from encodery.serve.models import ServeSettings, open_models
from encodery.serve.served_model import InferenceRequest
from encodery.serve.server_metrics import ServerMetrics

if TYPE_CHECKING:
    import uvicorn

STUCK_EXIT = 70  # EX_SOFTWARE of sysexits.h: the supervisor restarts
WATCH_EVERY, STUCK_AFTER = 10.0, 60.0  # seconds
ALONE_EVERY = 1.0  # seconds between looks for the supervisor


def run_worker(
    opening: ServeSettings, engine: EngineSettings, http: HttpSettings, fd: int, said: Callable[[str], None]
) -> None:
    """Serve on the listening socket `fd` until a signal; `said` tells what is worth knowing. Raises `UserError` kinds
    for what cannot be served."""
    parent = os.getppid()
    served, gauges = open_models(opening), ServerMetrics()
    trials = served.cost_probes if machine.device().type == "cpu" else {}
    costs = measured_costs(served.models, trials, engine.cores or machine.threads(), said)
    with ServingEngine(served.models, engine, gauges.record, costs) as running:
        _warm(running, served.health_probes)
        over = threading.Event()
        threading.Thread(target=_watch, args=(running, served.health_probes, over), name="watch", daemon=True).start()

        def stopping() -> None:
            running.draining = True

        app = make_app(
            LocalBackend(running, served.models_info, served.health_probes),
            http,
            gauges,
            engine.request_inputs,
            running.overload_error,
        )
        _answer(app, http, fd, parent, stopping)
        over.set()


def run_frontend(place: str, engine: EngineSettings, http: HttpSettings, fd: int) -> None:
    """The same before replicas on a cluster, at a place as `cluster.Place` writes it; models and engines are theirs."""
    parent, gauges = os.getppid(), ServerMetrics()
    app = make_app(connect(ReplicaAddress.parse(place), gauges.record), http, gauges, engine.request_inputs)
    _answer(app, http, fd, parent, lambda: None)


def uvicorn_config(app: FastAPI, http: HttpSettings) -> uvicorn.Config:
    """How uvicorn serves: connections are kept longer than clients keep theirs, lest one is closed as it is used."""
    made: uvicorn.Config = require("uvicorn", "serve").Config(
        app,
        http=patient(http.body_seconds),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=round(http.drain_seconds),
    )
    return made


def _answer(app: FastAPI, http: HttpSettings, fd: int, parent: int, stopping: Callable[[], None]) -> None:
    """HTTP on the listening socket until a signal, or until the process `parent` is gone; then `stopping` is called,
    and what was accepted is answered."""
    server = require("uvicorn", "serve").Server(uvicorn_config(app, http))

    def handle_exit(number: int, frame: FrameType | None) -> None:
        app.state.draining = server.should_exit = True
        stopping()

    server.handle_exit = handle_exit
    over = threading.Event()
    threading.Thread(target=_follow, args=(parent, over), name="follow", daemon=True).start()
    server.run(sockets=[socket.socket(fileno=fd)])
    over.set()


def _warm(engine: ServingEngine, beats: Sequence[InferenceRequest]) -> None:
    for asked in beats:
        engine.submit(asked, urgent=True).future.result()


def _watch(engine: ServingEngine, beats: Sequence[InferenceRequest], over: threading.Event) -> None:
    """End the process where the engine answers no more."""
    while not over.wait(WATCH_EVERY):
        try:
            found: list[Future[object]] = [
                engine.submit(asked, urgent=True).future  # type: ignore[misc]
                for asked in beats
            ]
            for one in found:
                one.result(STUCK_AFTER)
        except ApiError:
            continue  # Draining is not stuck.
        except Late:
            os._exit(STUCK_EXIT)


def _follow(parent: int, over: threading.Event) -> None:
    """End as on SIGTERM where the supervisor was killed: nobody else would end its workers."""
    while not over.wait(ALONE_EVERY):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
