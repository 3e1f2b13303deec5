"""Connect to Ray: to the cluster at RAY_ADDRESS if it is set, otherwise to a local Ray started for this process.

A local Ray listens on loopback only, requires a token, and ends with the process that started it. Ray's usage
statistics are switched off before it is imported, so nothing is reported to anyone.
"""

from __future__ import annotations

import socket
from types import ModuleType

from encodery.base import machine
from encodery.base.errors import InputError
from encodery.base.extras import require

EXTRA = "ray"
CONNECT_TIMEOUT = 5.0  # Seconds; Ray itself would retry for minutes.


def import_ray(address: str | None = None) -> ModuleType:
    """Import `ray` after setting the environment variables that it reads on import.

    Args:
        address: see `connect_ray`.

    Raises `MissingExtra`.
    """
    machine.set_ray_environment(local_only=(address or machine.ray_address()) is None)
    return require("ray", EXTRA)


def connect_ray(num_cpus: int | None = None, address: str | None = None) -> ModuleType:
    """Return the module `ray`, connected.

    Args:
        num_cpus: how many tasks of one CPU a local Ray runs at a time; None for one per core.
        address: the address of a running Ray; it takes precedence over RAY_ADDRESS.

    Raises `MissingExtra`, and `InputError` if no Ray answers at the address.
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
    """Raise `InputError` if nothing listens at host:port. Other addresses (auto, ray://...) are left to Ray."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"Ray at '{address}': cannot be reached ({error}). Check RAY_ADDRESS.") from error
