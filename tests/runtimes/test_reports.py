"""OpenVINO tells nobody of our use of it: the package that would is not imported, the home stays empty."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WATCHED = """
import sys
asked = []
sys.addaudithook(lambda event, _: asked.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
import numpy as np
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
model = build_model(ModelSettings(width=32, depth=1, heads=2, vocab=50, max_length=20), 1)
{}
print(asked, [name for name in sys.modules if name.startswith("openvino_telemetry")])
"""
RUN = """
from encodery.runtimes.openvino import Openvino
Openvino(threads=1).build(model).run(np.arange(5), np.array([0, 2, 5]))
"""


def ran(code: str, folder: Path) -> tuple[str, list[Path]]:
    """What a process of its own says, and what lies in its home."""
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=work, env={**env, "HOME": str(home)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("\n")[-1], [path for path in home.rglob("*") if path.is_file()]


def test_nobody_is_told_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    assert ran(WATCHED.format(RUN), tmp_path) == ("[] []", [])


def test_the_watch_would_notice(tmp_path: Path) -> None:
    """Without our door OpenVINO gets ready to tell as soon as it is imported."""
    pytest.importorskip("openvino")
    pytest.importorskip("openvino_telemetry")
    said, _ = ran(WATCHED.format("import openvino"), tmp_path)
    assert "openvino_telemetry" in said
