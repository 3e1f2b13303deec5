"""The record of a package from which text was gathered."""

from __future__ import annotations

from dataclasses import dataclass

CLIENT_TIMEOUT = 240  # Seconds for one call of a package client.


@dataclass(frozen=True)
class GatheredPackage:
    """A package, its license, and the number and bytes of the files that were taken from it."""

    package: str
    version: str
    license: str
    files: int
    bytes: int
