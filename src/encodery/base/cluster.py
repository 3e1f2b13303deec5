"""Ray, started or joined: on the machines of a cluster where RAY_ADDRESS names one, else on this machine alone.

A Ray of our own listens on loopback only, asks for a token, and ends with the process that began it. Wherever it runs,
nothing is reported to anyone: Ray's usage statistics are off before it is imported.
"""

from __future__ import annotations

import socket
from types import ModuleType

from encodery.base import machine
from encodery.base.errors import InputError
from encodery.base.extras import require

EXTRA = "ray"
CONNECT_TIMEOUT = 5.0  # Seconds to be let in; Ray itself would try for minutes.


def import_ray(address: str | None = None) -> ModuleType:
    """The module `ray`, told what it reads when it is imported. `address`: see `joined`. Raises `MissingExtra`."""
    machine.set_ray_environment(local_only=(address or machine.ray_address()) is None)
    return require("ray", EXTRA)


def connect_ray(num_cpus: int | None = None, address: str | None = None) -> ModuleType:
    """The module `ray`, at work. `cpus`: tasks of one CPU that a Ray of our own runs at a time (None: one a core);
    `address`: of a running one, before RAY_ADDRESS.

    Raises `MissingExtra`; `InputError` where no Ray answers at the address.
    """
    address, ray = address or machine.ray_address(), import_ray(address)
    if ray.is_initialized():
        return ray
    if address is not None:
        _reach(address)
    quiet = {"log_to_driver": False, "include_dashboard": False, "logging_level": "error"}
    try:
        if address is None:
            ray.init(address="local", num_cpus=num_cpus, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"Ray at '{address or 'this machine'}': {str(error).splitlines()[0]}") from error
    return ray


def _reach(address: str) -> None:
    """Raises `InputError` where nobody listens at host:port; other addresses (auto, ray://...) are left to Ray."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"Ray at '{address}': cannot be reached ({error}).") from error
