"""Replicas of the engine on a cluster, by Ray Serve, behind the same application as on one machine.

Ray starts the replicas, checks them, replaces those that die, and sends a request to the replica with the fewest.
HTTP stays with our own processes (`worker.py`), so routes, limits, errors and health are the same. A request whose
replica dies is sent to another one, once, which is safe because requests change nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from encodery.base import machine
from encodery.base.cluster import connect_ray
from encodery.base.errors import InputError, UserError
from encodery.base.extras import require
from encodery.serve.api_error import ApiError
from encodery.serve.backend import Backend, run_probes
from encodery.serve.served_model import InferenceRequest, InferenceResult
from encodery.serve.server_metrics import Record

MAX_TRIES = 2  # Of a request whose replica dies: a request that kills replicas must not kill them all.
MAX_ONGOING = 1 << 20  # Requests at a replica; its engine refuses by tokens.
HEALTH_SECONDS = 60.0  # That a replica may take to answer Ray's health check.
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ReplicaAddress:
    """Where replicas are: the `address` of Ray, and the `name` of the application there."""

    address: str
    name: str

    def to_argument(self) -> str:
        """As one word of a command line."""
        return f"{self.name}@{self.address}"

    @classmethod
    def parse(cls, argument: str) -> ReplicaAddress:
        """From such a word."""
        name, _, address = argument.partition("@")
        return cls(address, name)


@dataclass(frozen=True, kw_only=True)
class ReplicaSettings:
    """`count` of replicas; `cpus` of each, which are its threads; `gpus` of each, fractions allowed; `drain_seconds`:
    for the requests that a replica has accepted when it is stopped."""

    count: int = 1
    cpus: int = 1
    gpus: float = 0.0
    drain_seconds: float = 30.0


@contextlib.contextmanager
def deploy(
    serve_settings: dict[str, Any],
    engine_settings: dict[str, Any],
    replicas: ReplicaSettings,
    report: Callable[[str], None],
) -> Iterator[ReplicaAddress]:
    """Replicas, ready to answer, until the context ends. `serve_settings` and `engine_settings`: the fields of
    `ServeSettings` and `EngineSettings`.

    Raises `UserError` for models that cannot be served, and if Ray cannot start the replicas.
    """
    serve = _ray_serve(replicas.count * replicas.cpus)
    ray = require("ray", "ray")
    _check_capacity(ray, replicas, report)
    from encodery.serve.replica import Replica

    deployment = serve.deployment(Replica).options(
        name="replica",
        num_replicas=replicas.count,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        max_ongoing_requests=MAX_ONGOING,
        health_check_timeout_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=replicas.drain_seconds,
        logging_config={"log_level": "WARNING"},
    )
    name = f"encodery-{uuid4().hex[:8]}"
    try:
        try:
            bound = deployment.bind(serve_settings, engine_settings, os.getcwd(), machine.ray_address() is None)
            handle = serve.run(bound, name=name, route_prefix=None)
        except RuntimeError as error:
            raise UserError(f"Ray could not start the replicas: {error}") from error
        error_message = handle.about.remote().result()["error"]
        if error_message:
            raise InputError(error_message)
        yield ReplicaAddress(ray.get_runtime_context().gcs_address, name)
    finally:
        serve.delete(name)
        ray.shutdown()


def connect(address: ReplicaAddress, record: Record) -> RayBackend:
    """The backend of a frontend process: the replicas at an address."""
    handle = _ray_serve(None, address.address).get_app_handle(address.name)
    about = handle.about.remote().result()
    errors = require("ray.exceptions", "ray")
    death_errors = (errors.RayActorError, errors.NodeDiedError, errors.OwnerDiedError, errors.ObjectLostError)
    return RayBackend(handle, about["models_info"], about["health_probes"], record, death_errors)


class RayBackend(Backend):
    """A backend whose engines are replicas. `handle`: Ray Serve's; `record`: as an engine's, for whole requests;
    `death_errors`: the errors that say that a replica died."""

    def __init__(
        self,
        handle: Any,
        models_info: Sequence[dict[str, Any]],
        health_probes: Sequence[InferenceRequest],
        record: Record,
        death_errors: tuple[type[Exception], ...],
    ) -> None:
        self.handle, self.models_info, self.health_probes = handle, models_info, health_probes
        self.record, self._death_errors = record, death_errors
        self._pending: dict[object, InferenceRequest] = {}

    async def infer(self, request: InferenceRequest, urgent: bool = False) -> InferenceResult:
        """See `Backend`; `urgent`: before all other requests of its replica."""
        key = object()
        self._pending[key] = request
        self.record("accepted", request.endpoint, 1)
        try:
            result = await self._infer(request, urgent)
        except asyncio.CancelledError:
            self.record("cancelled", request.endpoint, 1)
            raise
        except ApiError as error:
            self.record("refused" if error.status == 429 else "failed", request.endpoint, 1)
            raise
        finally:
            del self._pending[key]
        for stage, seconds in result.seconds.items():
            self.record(f"{stage}_seconds", request.endpoint, seconds)
        self.record("dropped_tokens", request.endpoint, sum(result.dropped))
        return result

    async def _infer(self, request: InferenceRequest, urgent: bool) -> InferenceResult:
        for _ in range(MAX_TRIES):
            response = self.handle.infer.remote(request, urgent)
            try:
                result: InferenceResult | dict[str, Any] = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except self._death_errors:
                continue
            if isinstance(result, dict):
                raise ApiError(**result)
            return result
        raise ApiError(503, "replica_lost", f"{MAX_TRIES} replicas died during this request.", None, 5)

    async def probe(self) -> float:
        """See `Backend`: of the replica with the fewest requests."""
        results = (self.infer(request, urgent=True) for request in self.health_probes)
        return await run_probes(results, "No replica answered")

    async def drain(self, seconds: float) -> bool:
        """See `Backend`."""
        deadline = time.monotonic() + seconds
        while self._pending and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        return not self._pending

    def load(self) -> dict[str, int]:
        """See `Backend`: of this frontend, with tokens estimated from characters."""
        tokens = sum(request.estimate_tokens() for request in self._pending.values())
        return {"requests": len(self._pending), "tokens": tokens}


def _ray_serve(cpus: int | None, address: str | None = None) -> Any:
    """Ray Serve without its own HTTP and with little logging."""
    connect_ray(cpus, address)
    serve = require("ray.serve", "ray")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # It warns of every request that takes a moment.
    if address is None:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
    return serve


def _check_capacity(ray: Any, replicas: ReplicaSettings, report: Callable[[str], None]) -> None:
    """Report a cluster that is too small for all replicas: they wait until it grows."""
    resources = ray.cluster_resources()
    for name, needed in (("CPU", replicas.cpus), ("GPU", replicas.gpus)):
        if replicas.count * needed > resources.get(name, 0):
            report(
                f"The replicas need {replicas.count * needed:g} {name}s and the cluster has "
                f"{resources.get(name, 0):g}: nothing is served until there are enough for all replicas."
            )
