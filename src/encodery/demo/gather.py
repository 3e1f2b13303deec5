"""Gather real text on a new machine: documentation from Debian packages, or docstrings from Python wheels.

Packages are fetched by name with the machine's own clients (`apt-get`, `pip`) and unpacked without being installed or
run. If there is no `apt-get`, the text consists of the docstrings of a few pinned wheels and of Python itself. The
result is a folder of plain files with one subfolder per package, and the license of each package.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from encodery.base.artifact import atomic_write
from encodery.base.errors import InputError
from encodery.demo.debian import gather_debian
from encodery.demo.docstrings import gather_standard_library, gather_wheels
from encodery.demo.packages import GatheredPackage

SOURCES = "sources.json"


def gather(out: Path, log: Callable[[str], None] = print) -> list[GatheredPackage]:
    """Fill a folder with real text, one subfolder per package, and write `sources.json`.

    If `sources.json` exists, it is returned and nothing is fetched.

    Args:
        log: called with each line of progress.

    Raises `InputError` if neither packages nor wheels can be fetched.
    """
    record = out / SOURCES
    if record.is_file():
        return [GatheredPackage(**row) for row in json.loads(record.read_text(encoding="utf-8"))]
    shutil.rmtree(out, ignore_errors=True)
    packages = gather_debian(out, log) if shutil.which("apt-get") and shutil.which("dpkg-deb") else []
    if not packages:
        packages = gather_wheels(out, log) + gather_standard_library(out)
    if not any(package.files for package in packages):
        raise InputError("No text could be fetched. Use your own text: encodery demo --text DIR")
    atomic_write(record, json.dumps([asdict(package) for package in packages], indent=1))
    return packages
