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
from encodery.serve.backend import Local
from encodery.serve.costs import tables
from encodery.serve.engine import Engine, EngineSettings
from encodery.serve.lane import Answer, Asked
from encodery.serve.models import Opening, open_all
from encodery.serve.refusal import refused


class Replica:
    """Opened as `encodery serve` opens a worker. What the models' owner has to mend is told, not raised: a replica that
    fails to start would be started again and again."""

    def __init__(self, opening: Mapping[str, Any], engine: Mapping[str, Any], folder: str, alone: bool) -> None:
        """`folder`: from which paths are counted; `alone`: nobody on other machines has to reach this one."""
        settings, self.wrong = EngineSettings(**engine), ""
        if alone and not _kept_inside():
            self.wrong = "This version of Ray Serve cannot be kept from listening to the network: set RAY_ADDRESS."
            return
        with contextlib.suppress(OSError):  # Another machine may not have it; paths may be absolute.
            os.chdir(folder)
        try:
            served = open_all(Opening(**opening))
        except UserError as error:
            self.wrong = str(error)
            return
        cores = settings.cores or machine.threads()
        trials = served.trials if machine.device().type == "cpu" else {}
        costs = tables(served.lanes, trials, cores, partial(print, file=sys.stderr, flush=True))
        self.local = Local(Engine(served.lanes, settings, costs=costs), served.facts, served.beats)
        for asked in served.beats:
            self.local.engine.submit(asked, urgent=True).future.result()

    async def about(self) -> dict[str, Any]:
        """What is `wrong`, else `facts` and `beats` (see `models.Served`), and the `device` the models are on."""
        if self.wrong:
            return {"wrong": self.wrong}
        return {"wrong": "", "facts": self.local.facts, "beats": self.local.beats, "device": machine.device().type}

    async def ask(self, asked: Asked, urgent: bool = False) -> Answer | dict[str, Any]:
        """The answer, or a refusal's table. Cancelled, it withdraws the request."""
        try:
            return await self.local.ask(asked, urgent)
        except Exception as error:
            return refused(error).packed()

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica where this fails, or takes too long, again and again."""
        if not self.wrong:
            await asyncio.gather(*(self.local.ask(asked, urgent=True) for asked in self.local.beats))


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
