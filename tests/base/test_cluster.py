"""How Ray is started: locally on loopback, or connected to RAY_ADDRESS, and never with usage statistics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from encodery.base.cluster import connect_ray
from encodery.base.errors import MissingExtra

FAKE_RAY = """
import os
environment = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
options = None
def is_initialized():
    return options is not None
def init(**arguments):
    global options
    if arguments["address"] == "ray://nowhere:1":
        raise ConnectionError("no answer\\nand more")
    options = arguments
"""
CODE = """
import json, sys
from encodery.base.cluster import connect_ray
from encodery.base.errors import InputError
try:
    ray = connect_ray(3)
    assert connect_ray() is ray
    print(json.dumps({"environment": ray.environment, "options": ray.options}))
except InputError as error:
    print(json.dumps({"message": str(error)}))
"""


def start(folder: Path, **variables: str) -> dict[str, Any]:
    """Start a fake Ray; return the environment variables at its import and the options of `init`, or the error."""
    (folder / "ray.py").write_text(FAKE_RAY)
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**others, "PYTHONPATH": str(folder), "RAY_USAGE_STATS_ENABLED": "1", **variables}
    process = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    result: dict[str, Any] = json.loads(process.stdout)
    return result


def test_a_local_ray_listens_on_loopback_and_reports_nothing(tmp_path: Path) -> None:
    started = start(tmp_path)
    assert started["environment"] == {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_worker_niceness": "0",
    }
    assert (started["options"]["address"], started["options"]["num_cpus"]) == ("local", 3)
    assert start(tmp_path, RAY_AUTH_MODE="disabled")["environment"]["RAY_AUTH_MODE"] == "disabled"


def test_a_cluster_is_connected_to_without_changes(tmp_path: Path) -> None:
    started = start(tmp_path, RAY_ADDRESS="auto")
    assert started["environment"] == {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": "auto",
    }
    assert started["options"]["address"] == "auto"
    assert "num_cpus" not in started["options"]
    assert start(tmp_path, RAY_ADDRESS="ray://nowhere:1") == {"message": "Ray at 'ray://nowhere:1': no answer"}
    assert "Ray at '127.0.0.1:1': cannot be reached" in start(tmp_path, RAY_ADDRESS="127.0.0.1:1")["message"]


def test_it_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ))  # Changes to the environment end with the test.
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'encodery\[ray\]'"):
        connect_ray()
