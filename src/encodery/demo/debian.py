"""Fetch the documentation in Debian packages with `apt-get`, without installing anything."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from encodery.demo.packages import CLIENT_TIMEOUT, GatheredPackage

DOC = r"usr/share/doc/"


@dataclass(frozen=True)
class DebianSource:
    """The documentation of one Debian package.

    Attributes:
        names: the names of the package in different releases; the first one that exists is used.
        license: the license of the text.
        members: a regular expression of the paths of its text files.
    """

    names: tuple[str, ...]
    license: str
    members: str


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


def gather_debian(out: Path, log: Callable[[str], None]) -> list[GatheredPackage]:
    """Fetch the documentation packages in the machine's package lists; an empty list if the lists cannot be read."""
    with tempfile.TemporaryDirectory() as scratch:
        apt = _Apt(Path(scratch))
        log("reading the package lists")
        if not apt.update():
            return []
        known = apt.known({name for source in DEBIAN for name in source.names})
        candidates = [(next((n for n in source.names if n in known), None), source) for source in DEBIAN]
        selected = [(name, source) for name, source in candidates if name]
        log(f"fetching {len(selected)} documentation packages")
        files = apt.download([name for name, _ in selected])
        return [unpack(files[name], name, source, out) for name, source in selected if name in files]


class _Apt:
    """`apt-get` with its own lists and cache: it needs no privileges and changes nothing on the machine."""

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
        """Read the package lists; return whether that succeeded."""
        try:
            return self._call("apt-get", "-q", "update").returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def known(self, names: set[str]) -> set[str]:
        """Return those of the names that are in the package lists."""
        return names & set(self._call("apt-cache", "pkgnames").stdout.split())

    def download(self, names: list[str]) -> dict[str, Path]:
        """Download packages; return name -> file of those that arrived."""
        try:
            self._call("apt-get", "-q", "download", *names)
        except subprocess.TimeoutExpired:
            return {}
        return {path.name.split("_")[0]: path for path in (self._scratch / "debs").glob("*.deb")}


def unpack(deb: Path, name: str, source: DebianSource, out: Path) -> GatheredPackage:
    """Write the text files of a package, and its copyright file, to a subfolder of `out`."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        subprocess.run(["dpkg-deb", "-x", str(deb), str(tree)], check=True, timeout=CLIENT_TIMEOUT, capture_output=True)
        members = re.compile(source.members)
        files = [p for p in sorted(tree.rglob("*")) if p.is_file() and not p.is_symlink() and members.search(str(p))]
        common = _common_folder(files)
        size = 0
        for file in files:
            content, relative = file.read_bytes(), file.relative_to(common)
            if file.suffix == ".gz":
                content, relative = gzip.decompress(content), relative.with_suffix("")
            target = out / name / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            size += len(content)
        copyright_file = tree / DOC / name / "copyright"
        if copyright_file.is_file():
            (out / name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(copyright_file, out / name / "COPYRIGHT")
    return GatheredPackage(name, deb.name.split("_")[1].replace("%3a", ":"), source.license, len(files), size)


def _common_folder(files: list[Path]) -> Path:
    folder = files[0].parent if files else Path("/")
    while not all(file.is_relative_to(folder) for file in files):
        folder = folder.parent
    return folder
