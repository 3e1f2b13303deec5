"""An engine with its models as Ray Serve runs it, somewhere on a cluster: what `Local` is to a server of one machine.

Nothing of Ray is imported here. Refusals travel as tables: an exception would come wrapped in Ray's own.
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
    """Opened as `encodery serve` opens a worker. What the models' owner has to mend is told, not raised: a replica that
    fails to start would be started again and again."""

    def __init__(self, opening: Mapping[str, Any], engine: Mapping[str, Any], folder: str, alone: bool) -> None:
        """`folder`: from which paths are counted; `alone`: nobody on other machines has to reach this one."""
        settings, self.error = EngineSettings(**engine), ""
        if alone and not _kept_inside():
            self.error = "This version of Ray Serve cannot be kept from listening to the network: set RAY_ADDRESS."
            return
        with contextlib.suppress(OSError):  # Another machine may not have it; paths may be absolute.
            os.chdir(folder)
        try:
            served = open_models(ServeSettings(**opening))
        except UserError as error:
            self.error = str(error)
            return
        cores = settings.cores or machine.threads()
        trials = served.cost_probes if machine.device().type == "cpu" else {}
        costs = measured_costs(served.models, trials, cores, partial(print, file=sys.stderr, flush=True))
        self.backend = LocalBackend(
            ServingEngine(served.models, settings, costs=costs), served.models_info, served.health_probes
        )
        for asked in served.health_probes:
            self.backend.engine.submit(asked, urgent=True).future.result()

    async def about(self) -> dict[str, Any]:
        """What is `wrong`, else `facts` and `beats` (see `models.Served`), and the `device` the models are on."""
        if self.error:
            return {"wrong": self.error}
        return {
            "wrong": "",
            "facts": self.backend.models_info,
            "beats": self.backend.health_probes,
            "device": machine.device().type,
        }

    async def infer(self, asked: InferenceRequest, urgent: bool = False) -> InferenceResult | dict[str, Any]:
        """The answer, or a refusal's table. Cancelled, it withdraws the request."""
        try:
            return await self.backend.infer(asked, urgent)
        except Exception as error:
            return as_api_error(error).fields()

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica where this fails, or takes too long, again and again."""
        if not self.error:
            await asyncio.gather(*(self.backend.infer(asked, urgent=True) for asked in self.backend.health_probes))


def _kept_inside() -> bool:
    """Whether Ray Serve's port of this replica is on loopback. Left to itself it is open to the network, to anyone, and
    unpickles what it is sent; between machines of a cluster that is for its owner to close."""
    ours = sys.modules.get("ray.serve._private.replica")
    if ours is None:
        return True  # Not run by Ray.
    bind = getattr(ours, "add_port_to_grpc_server", None)
    if bind is None:
        return False

    def bound(server: Any, address: str) -> Any:
        return bind(server, f"127.0.0.1:{address.rpartition(':')[2]}")

    ours.add_port_to_grpc_server = bound  # type: ignore[attr-defined]
    return True
