"""Whether a Host header names this machine: a page of another site can reach a server on localhost under the name of
that site (DNS rebinding), and the Host header of its requests has that name."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection


def names_this_machine(header: str, names: Collection[str] = ()) -> bool:
    """Return whether a Host header, with or without a port, is localhost, an IP address, the name of this machine, or
    one of `names`."""
    name = header.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") <= 1:
        name = name.partition(":")[0]
    name = name.removesuffix(".")
    return name in ("localhost", socket.gethostname().lower(), *(known.lower() for known in names)) or is_address(name)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to a server that listens on `host`."""
    return host.lower() == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(name: str) -> bool:
    """Return whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
