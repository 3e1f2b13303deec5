"""An engine with its models as Ray Serve runs it on a machine of a cluster; `LocalBackend` is its equal on one machine.

Nothing of Ray is imported here. Errors travel as tables: an exception would be wrapped in Ray's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from encodery.base import machine
from encodery.base.errors import UserError
from encodery.serve.api_error import as_api_error
from encodery.serve.backend import LocalBackend
from encodery.serve.costs import measured_costs
from encodery.serve.engine import EngineSettings, ServingEngine
from encodery.serve.models import ServeSettings, open_models
from encodery.serve.served_model import InferenceRequest, InferenceResult


class Replica:
    """Opened as `encodery serve` opens a worker. A user's error is kept in `error`, not raised: a replica that fails to
    start would be started again and again."""

    def __init__(
        self,
        serve_settings: Mapping[str, Any],
        engine_settings: Mapping[str, Any],
        folder: str,
        local_only: bool,
    ) -> None:
        """`folder`: what relative paths are relative to; `local_only`: no other machine must reach this replica."""
        settings, self.error = EngineSettings(**engine_settings), ""
        if local_only and not _bind_to_loopback():
            self.error = "This version of Ray Serve listens on the network and cannot be stopped: set RAY_ADDRESS."
            return
        with contextlib.suppress(OSError):  # Another machine may not have the folder; paths may be absolute.
            os.chdir(folder)
        try:
            registry = open_models(ServeSettings(**serve_settings))
        except UserError as error:
            self.error = str(error)
            return
        cores = settings.cores or machine.threads()
        probes = registry.cost_probes if machine.device().type == "cpu" else {}
        costs = measured_costs(registry.models, probes, cores, partial(print, file=sys.stderr, flush=True))
        engine = ServingEngine(registry.models, settings, costs=costs)
        self.backend = LocalBackend(engine, registry.models_info, registry.health_probes)
        for request in registry.health_probes:
            engine.submit(request, urgent=True).future.result()

    async def about(self) -> dict[str, Any]:
        """The `error`, or `models_info`, `health_probes` (see `models.ModelRegistry`) and the `device` of models."""
        if self.error:
            return {"error": self.error}
        return {
            "error": "",
            "models_info": self.backend.models_info,
            "health_probes": self.backend.health_probes,
            "device": machine.device().type,
        }

    async def infer(self, request: InferenceRequest, urgent: bool = False) -> InferenceResult | dict[str, Any]:
        """The result, or the fields of an `ApiError`. If it is cancelled, the request is withdrawn."""
        try:
            return await self.backend.infer(request, urgent)
        except Exception as error:
            return as_api_error(error).fields()

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica if this fails or takes too long several times."""
        if not self.error:
            probes = (self.backend.infer(request, urgent=True) for request in self.backend.health_probes)
            await asyncio.gather(*probes)


def _bind_to_loopback() -> bool:
    """Bind Ray Serve's port of this replica to loopback; whether that works. By default it is open to the network, to
    anyone, and unpickles what it receives; between the machines of a cluster its owner has to close it."""
    ray_replica = sys.modules.get("ray.serve._private.replica")
    if ray_replica is None:
        return True  # Not run by Ray.
    add_port = getattr(ray_replica, "add_port_to_grpc_server", None)
    if add_port is None:
        return False

    def add_loopback_port(server: Any, address: str) -> Any:
        return add_port(server, f"127.0.0.1:{address.rpartition(':')[2]}")

    ray_replica.add_port_to_grpc_server = add_loopback_port  # type: ignore[attr-defined]
    return True
