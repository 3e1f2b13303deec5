"""The demo's text: Debian packages are unpacked, docstrings extracted, and an existing folder is not fetched again."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from encodery.base.errors import InputError
from encodery.demo import debian, docstrings, gather
from encodery.demo.debian import DOC, DebianSource, gather_debian, unpack
from encodery.demo.docstrings import gather_standard_library, gather_wheels, write_docstrings
from encodery.demo.packages import GatheredPackage

MODULE = f'"""{"A module about rivers. " * 20}"""\n\ndef cross() -> None:\n    """Cross the river."""\n'
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")


def build_package(folder: Path, name: str = "river-doc") -> Path:
    """Build a Debian package with one HTML page, one compressed page, an image and a copyright file."""
    tree = folder / "tree"
    pages = tree / DOC / name / "html"
    pages.mkdir(parents=True)
    (pages / "index.html").write_text("<p>The river.</p>")
    (pages / "bridge.html.gz").write_bytes(gzip.compress(b"<p>The bridge.</p>"))
    (pages / "map.png").write_bytes(b"\x89PNG")
    (pages / "link.html").symlink_to("index.html")
    (tree / DOC / name / "copyright").write_text("GPL-2")
    (tree / "DEBIAN").mkdir()
    control = f"Package: {name}\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: x\n"
    (tree / "DEBIAN" / "control").write_text(control)
    deb = folder / f"{name}_1%3a2.0-1_all.deb"
    subprocess.run(["dpkg-deb", "-b", str(tree), str(deb)], check=True, capture_output=True)
    return deb


@needs_dpkg
def test_a_package_is_unpacked_to_its_text_files(tmp_path: Path) -> None:
    source = DebianSource(("river-doc",), "GPL-2", r"html/.*\.html(\.gz)?$")
    package = unpack(build_package(tmp_path), "river-doc", source, tmp_path / "out")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out" / "river-doc").iterdir()}
    assert files == {
        "index.html": b"<p>The river.</p>",
        "bridge.html": b"<p>The bridge.</p>",
        "COPYRIGHT": b"GPL-2",
    }
    assert package == GatheredPackage("river-doc", "1:2.0-1", "GPL-2", 2, 35)


class FakeApt:
    """Package lists with one documentation package, or none that can be read."""

    deb: Path
    answers = True

    def __init__(self, scratch: Path) -> None: ...

    def update(self) -> bool:
        return self.answers

    def known(self, names: set[str]) -> set[str]:
        return names & {"postgresql-doc-16", "postgresql-doc-17", "git-doc"}

    def download(self, names: list[str]) -> dict[str, Path]:
        assert names == ["git-doc", "postgresql-doc-16"], "the first name that is in the lists"
        return {"git-doc": self.deb}  # The other one did not arrive.


@needs_dpkg
def test_the_first_known_name_of_each_package_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeApt.deb = build_package(tmp_path, "git-doc")
    monkeypatch.setattr(debian, "_Apt", FakeApt)
    lines: list[str] = []
    [package] = gather_debian(tmp_path / "out", lines.append)
    assert (package.package, package.license, package.files) == ("git-doc", "GPL-2", 1)
    assert lines == ["reading the package lists", "fetching 2 documentation packages"]
    monkeypatch.setattr(FakeApt, "answers", False)
    assert gather_debian(tmp_path / "none", lines.append) == []


def test_docstrings_are_written_per_module(tmp_path: Path) -> None:
    members = [
        ("pkg/river.py", MODULE.encode()),
        ("pkg/tests/river.py", MODULE.encode()),
        ("pkg/short.py", b'"""Short."""'),
        ("pkg/broken.py", b"def ("),
        ("pkg/nul.py", b"\x00"),
    ]
    package = write_docstrings(tmp_path, iter(members), ("pkg", "1.0", "MIT"))
    [path] = tmp_path.rglob("*.rst")
    assert path == tmp_path / "pkg" / "river.rst"
    text = path.read_text()
    assert text.startswith("A module about rivers.")
    assert text.endswith("cross: Cross the river.")
    assert package == GatheredPackage("pkg", "1.0", "MIT", 1, len(text))


def test_a_wheel_that_cannot_be_downloaded_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        folder, spec = Path(command[-2]), command[-1]
        assert {"download", "--no-deps", "--only-binary=:all:"} <= set(command), "nothing is built or installed"
        if spec == "river==1.0":
            folder.mkdir()
            with zipfile.ZipFile(folder / "river-1.0.whl", "w") as wheel:
                wheel.writestr("river/__init__.py", MODULE)
                wheel.writestr("river/data.txt", "no module")
        return subprocess.CompletedProcess(command, int(spec != "river==1.0"))

    monkeypatch.setattr(docstrings, "WHEELS", (("lake==2.0", "MIT"), ("river==1.0", "BSD-3-Clause")))
    monkeypatch.setattr(docstrings.subprocess, "run", download)
    [package] = gather_wheels(tmp_path, lambda _: None)
    assert (package.package, package.version, package.license, package.files) == ("river", "1.0", "BSD-3-Clause", 1)
    assert (tmp_path / "river" / "river" / "__init__.rst").is_file()


def test_the_standard_library_has_docstrings_of_its_modules_but_not_of_its_tests(tmp_path: Path) -> None:
    [package] = gather_standard_library(tmp_path)
    assert package.files > 100
    assert (tmp_path / "python" / "argparse.rst").is_file()
    assert not (tmp_path / "python" / "test").exists()


def test_wheels_replace_missing_packages_and_a_finished_folder_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = GatheredPackage("river", "1.0", "MIT", 1, 10)
    calls: list[str] = []

    def gather_some(kind: str, packages: list[GatheredPackage]) -> Any:
        def fake(out: Path, log: object = None) -> list[GatheredPackage]:
            out.mkdir(exist_ok=True)
            calls.append(kind)
            return packages

        return fake

    monkeypatch.setattr(gather.shutil, "which", lambda _: None)
    monkeypatch.setattr(gather, "gather_debian", gather_some("debian", []))
    monkeypatch.setattr(gather, "gather_wheels", gather_some("wheels", [package]))
    monkeypatch.setattr(gather, "gather_standard_library", gather_some("python", []))
    assert gather.gather(tmp_path / "text") == [package]
    assert calls == ["wheels", "python"], "without apt-get the package lists are not read"
    assert json.loads((tmp_path / "text" / "sources.json").read_text())[0]["license"] == "MIT"
    assert gather.gather(tmp_path / "text") == [package]
    assert len(calls) == 2, "nothing is fetched again"
    monkeypatch.setattr(gather, "gather_wheels", gather_some("wheels", []))
    with pytest.raises(InputError, match="encodery demo --text DIR"):
        gather.gather(tmp_path / "other")
