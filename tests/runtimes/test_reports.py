"""OpenVINO and NNCF tell nobody of our use of them: the package that would is not imported, the home stays empty."""

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
from encodery.model.network import ModelSettings, build_model
model = build_model(ModelSettings(width=32, depth=1, heads=2, vocab=50, max_length=20), 1)
{}
print(asked, [name for name in sys.modules if name.startswith("openvino_telemetry")])
"""
RUN = """
from encodery.runtimes.openvino import Openvino
Openvino(threads=1).build(model).run(np.arange(5), np.array([0, 2, 5]))
"""
QUANTISE = """
from pathlib import Path
from encodery.runtimes._onnx_graph import graph
from encodery.runtimes._reports import without_reports
engine, nncf = without_reports("openvino"), without_reports("nncf")
Path("model.onnx").write_bytes(graph(model).SerializeToString())
given = [{"input_ids": np.ones((1, 4), np.int64), "attention_mask": np.ones((1, 4), np.int64)}]
nncf.quantize(engine.Core().read_model("model.onnx"), nncf.Dataset(given), subset_size=1)
"""


def ran(code: str, folder: Path) -> tuple[str, list[Path]]:
    """What a process of its own says (NNCF keeps quiet by itself where it sees pytest), and what lies in its home."""
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


@pytest.mark.slow
def test_nobody_is_told_of_a_quantisation(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    pytest.importorskip("onnx")
    assert ran(WATCHED.format(QUANTISE), tmp_path) == ("[] []", [])


@pytest.mark.slow
def test_the_watch_would_notice(tmp_path: Path) -> None:
    """Without our door NNCF gets ready to tell as soon as it is imported."""
    pytest.importorskip("nncf")
    pytest.importorskip("openvino_telemetry")
    said, held = ran(WATCHED.format("import nncf"), tmp_path)
    assert "openvino_telemetry" in said
    assert held
