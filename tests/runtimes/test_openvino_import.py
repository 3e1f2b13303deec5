"""OpenVINO sends no telemetry: the package that would is not imported, and the home folder stays empty."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
connections = []
def record(event, _):
    if event in ("socket.connect", "socket.getaddrinfo"):
        connections.append(event)
sys.addaudithook(record)
import numpy as np
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
model = build_model(ModelSettings(width=32, depth=1, heads=2, vocab_size=50, max_length=20), 1)
{}
print(connections, [name for name in sys.modules if name.startswith("openvino_telemetry")])
"""
RUN = """
from encodery.runtimes.kind.openvino import OpenvinoRuntime
OpenvinoRuntime(threads=1).build(model).run(np.arange(5), np.array([0, 2, 5]))
"""


def run_script(code: str, folder: Path) -> tuple[str, list[Path]]:
    """Run code in another process: the last line that it prints, and the files that it leaves in its home folder."""
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=work, env={**env, "HOME": str(home)}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().split("\n")[-1], [path for path in home.rglob("*") if path.is_file()]


def test_a_run_sends_and_writes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    assert run_script(SCRIPT.format(RUN), tmp_path) == ("[] []", [])


def test_the_script_would_notice_telemetry(tmp_path: Path) -> None:
    """A plain import of OpenVINO imports its telemetry."""
    pytest.importorskip("openvino")
    pytest.importorskip("openvino_telemetry")
    printed, _ = run_script(SCRIPT.format("import openvino"), tmp_path)
    assert "openvino_telemetry" in printed
