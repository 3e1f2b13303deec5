"""Extract the docstrings of Python wheels, which `pip` downloads, and of the standard library."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from encodery.demo.packages import CLIENT_TIMEOUT, GatheredPackage

WHEELS = (
    ("scipy==1.16.3", "BSD-3-Clause"),
    ("sympy==1.14.0", "BSD-3-Clause"),
    ("networkx==3.5", "BSD-3-Clause"),
    ("scikit-learn==1.7.2", "BSD-3-Clause"),
    ("pandas==2.3.3", "BSD-3-Clause"),
    ("statsmodels==0.14.5", "BSD-3-Clause"),
    ("matplotlib==3.10.7", "Matplotlib (BSD-like)"),
    ("django==5.2.8", "BSD-3-Clause"),
)
MIN_CHARACTERS = 200  # Of the docstrings of a module; shorter ones are left out.


def gather_wheels(out: Path, log: Callable[[str], None]) -> list[GatheredPackage]:
    """Write the docstrings of the pinned wheels; a wheel that cannot be downloaded is left out."""
    packages = []
    with tempfile.TemporaryDirectory() as scratch:
        for spec, license_name in WHEELS:
            name, _, version = spec.partition("==")
            log(f"fetching the docstrings of {spec}")
            folder = Path(scratch) / name
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
            outcome = subprocess.run(
                [*command, "-d", str(folder), spec], capture_output=True, timeout=CLIENT_TIMEOUT, check=False
            )
            for wheel in folder.glob("*.whl") if outcome.returncode == 0 else ():
                with zipfile.ZipFile(wheel) as archive:
                    members = (
                        (member, archive.read(member)) for member in archive.namelist() if member.endswith(".py")
                    )
                    packages.append(write_docstrings(out / name, members, (name, version, license_name)))
    return packages


def gather_standard_library(out: Path) -> list[GatheredPackage]:
    """Write the docstrings of the standard library of the running Python."""
    library = Path(ast.__file__).parent
    files = (p for p in sorted(library.rglob("*.py")) if not {"site-packages", "test", "tests"} & set(p.parts))
    members = ((str(p.relative_to(library)), p.read_bytes()) for p in files)
    version = ".".join(map(str, sys.version_info[:3]))
    return [write_docstrings(out / "python", members, ("python", version, "PSF-2"))]


def write_docstrings(
    folder: Path, members: Iterator[tuple[str, bytes]], record: tuple[str, str, str]
) -> GatheredPackage:
    """Write one .rst file with the docstrings of each module.

    Args:
        members: (path, source code) of each module; tests are skipped.
        record: package, version and license.
    """
    count = size = 0
    for member, code in members:
        text = "\n\n".join(_docstrings(code))
        if len(text) < MIN_CHARACTERS or "/tests/" in member:
            continue
        target = folder / Path(member).with_suffix(".rst")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        count, size = count + 1, size + len(text.encode())
    return GatheredPackage(*record, count, size)


def _docstrings(code: bytes) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            module = ast.parse(code)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield f"{node.name}: {text}" if hasattr(node, "name") else text
