"""Replicas of the engine on a cluster, by Ray Serve, behind the same application as on one machine.

Ray starts the replicas, watches them, replaces those that die and deals requests to the ones with the least to do. HTTP
stays with our own processes (`worker.py`), so routes, limits, refusals and health are the very same; a request whose
replica dies is asked of another one, once, since answers change nothing.
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
from encodery.serve.backend import run_probes
from encodery.serve.served_model import InferenceRequest, InferenceResult

MAX_TRIES = 2  # Of a request whose replica dies: one that kills replicas shall not kill them all.
UNBOUNDED = 1 << 20  # Requests at a replica: its engine refuses by tokens.
STUCK_AFTER = 60.0  # Seconds that a replica may take to answer Ray's question for its health.
POLL = 0.05


@dataclass(frozen=True)
class ReplicaAddress:
    """Where replicas are: the `address` of Ray, and the `name` of the application there."""

    address: str
    name: str

    def to_argument(self) -> str:
        """As one word of a command line."""
        return f"{self.name}@{self.address}"

    @classmethod
    def parse(cls, written: str) -> ReplicaAddress:
        """Of such a word."""
        name, _, address = written.partition("@")
        return cls(address, name)


@dataclass(frozen=True, kw_only=True)
class ReplicaSettings:
    """How many there are, and what each of them has: `cpus`, which is its threads, and `gpus`, of which a part will do;
    `drain_seconds`: for what it has accepted, when it is stopped."""

    count: int = 1
    cpus: int = 1
    gpus: float = 0.0
    drain_seconds: float = 30.0


@contextlib.contextmanager
def deploy(
    opening: dict[str, Any], engine: dict[str, Any], wanted: ReplicaSettings, said: Callable[[str], None]
) -> Iterator[ReplicaAddress]:
    """Replicas, open and answering, until the end. `opening` and `engine`: fields of `Opening` and `EngineSettings`.

    Raises `UserError` kinds: for what cannot be served, and where Ray cannot start it.
    """
    serve = _serve(wanted.count * wanted.cpus)
    ray = require("ray", "ray")
    _room(ray, wanted, said)
    from encodery.serve.replica import Replica

    made = serve.deployment(Replica).options(
        name="replica",
        num_replicas=wanted.count,
        ray_actor_options={"num_cpus": wanted.cpus, "num_gpus": wanted.gpus},
        max_ongoing_requests=UNBOUNDED,
        health_check_timeout_s=STUCK_AFTER,
        graceful_shutdown_timeout_s=wanted.drain_seconds,
        logging_config={"log_level": "WARNING"},
    )
    name = f"encodery-{uuid4().hex[:8]}"
    try:
        try:
            bound = made.bind(opening, engine, os.getcwd(), machine.ray_address() is None)
            handle = serve.run(bound, name=name, route_prefix=None)
        except RuntimeError as error:
            raise UserError(f"Ray could not start the replicas: {error}") from error
        wrong = handle.about.remote().result()["wrong"]
        if wrong:
            raise InputError(wrong)
        yield ReplicaAddress(ray.get_runtime_context().gcs_address, name)
    finally:
        serve.delete(name)
        ray.shutdown()


def connect(place: ReplicaAddress, note: Callable[[str, str, float], None]) -> RayBackend:
    """Of a front's process: the replicas at that place."""
    handle = _serve(None, place.address).get_app_handle(place.name)
    about = handle.about.remote().result()
    lost = require("ray.exceptions", "ray")
    deaths = (lost.RayActorError, lost.NodeDiedError, lost.OwnerDiedError, lost.ObjectLostError)
    return RayBackend(handle, about["facts"], about["beats"], note, deaths)


class RayBackend:
    """A `Backend` whose engines are replicas. `handle` is Ray Serve's; `note`: as an engine's, of whole requests;
    `lost`: the errors that say that a replica died."""

    def __init__(
        self,
        handle: Any,
        facts: Sequence[dict[str, Any]],
        beats: Sequence[InferenceRequest],
        note: Callable[[str, str, float], None],
        lost: tuple[type[Exception], ...],
    ) -> None:
        self.handle, self.models_info, self.health_probes, self.record, self._lost = handle, facts, beats, note, lost
        self._going: dict[object, InferenceRequest] = {}

    async def infer(self, asked: InferenceRequest, urgent: bool = False) -> InferenceResult:
        """See `Backend`; `urgent`: before all others of its replica."""
        ticket = object()
        self._going[ticket] = asked
        self.record("accepted", asked.endpoint, 1)
        try:
            answer = await self._answer(asked, urgent)
        except asyncio.CancelledError:
            self.record("cancelled", asked.endpoint, 1)
            raise
        except ApiError as refusal:
            self.record("refused" if refusal.status == 429 else "failed", asked.endpoint, 1)
            raise
        finally:
            del self._going[ticket]
        for stage, seconds in answer.seconds.items():
            self.record(f"{stage}_seconds", asked.endpoint, seconds)
        self.record("dropped_tokens", asked.endpoint, sum(answer.dropped))
        return answer

    async def _answer(self, asked: InferenceRequest, urgent: bool) -> InferenceResult:
        for _ in range(MAX_TRIES):
            response = self.handle.ask.remote(asked, urgent)
            try:
                found: InferenceResult | dict[str, Any] = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except self._lost:
                continue
            if isinstance(found, dict):
                raise ApiError(**found)
            return found
        raise ApiError(503, "replica_lost", f"{MAX_TRIES} replicas died at this request, one after another.", None, 5)

    async def probe(self) -> float:
        """See `Backend`: of the replica that has the least to do."""
        return await run_probes((self.infer(asked, urgent=True) for asked in self.health_probes), "No replica answered")

    async def drain(self, seconds: float) -> bool:
        """See `Backend`."""
        until = time.monotonic() + seconds
        while self._going and time.monotonic() < until:
            await asyncio.sleep(POLL)
        return not self._going

    def load(self) -> dict[str, int]:
        """See `Backend`: of this front, tokens estimated from characters."""
        return {"requests": len(self._going), "tokens": sum(one.estimate_tokens() for one in self._going.values())}


def _serve(cpus: int | None, address: str | None = None) -> Any:
    """Ray Serve, quiet, without its own HTTP."""
    connect_ray(cpus, address)
    serve = require("ray.serve", "ray")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # It warns of every answer that takes a moment.
    if address is None:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
    return serve


def _room(ray: Any, wanted: ReplicaSettings, said: Callable[[str], None]) -> None:
    """Tell where the cluster has too little for all replicas: they wait until it has more."""
    has = ray.cluster_resources()
    for name, each in (("CPU", wanted.cpus), ("GPU", wanted.gpus)):
        if wanted.count * each > has.get(name, 0):
            said(
                f"The replicas want {wanted.count * each:g} {name}s, the cluster has {has.get(name, 0):g}: "
                "nothing is served before there is room for all of them."
            )
