"""How Ray is started: alone on loopback, joined where RAY_ADDRESS says, and never with its usage statistics."""

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

STAND_IN = """
import os
read = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
given = None
def is_initialized():
    return given is not None
def init(**options):
    global given
    if options["address"] == "ray://nowhere:1":
        raise ConnectionError("no answer\\nand more")
    given = options
"""
CODE = """
import json, sys
from encodery.base.cluster import joined
from encodery.base.errors import InputError
try:
    ray = joined(3)
    assert joined() is ray
    print(json.dumps({"read": ray.read, "given": ray.given}))
except InputError as error:
    print(json.dumps({"said": str(error)}))
"""


def begun(folder: Path, **more: str) -> dict[str, Any]:
    """What a stand-in for Ray finds in the environment when it is imported, and how it is started."""
    (folder / "ray.py").write_text(STAND_IN)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    room = {**kept, "PYTHONPATH": str(folder), "RAY_USAGE_STATS_ENABLED": "1", **more}
    found = subprocess.run(
        [sys.executable, "-c", CODE], env=room, capture_output=True, text=True, timeout=120, check=True
    )
    told: dict[str, Any] = json.loads(found.stdout)
    return told


def test_alone_it_listens_on_loopback_and_tells_nobody(tmp_path: Path) -> None:
    found = begun(tmp_path)
    assert found["read"] == {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_worker_niceness": "0",
    }
    assert (found["given"]["address"], found["given"]["num_cpus"]) == ("local", 3)
    assert begun(tmp_path, RAY_AUTH_MODE="disabled")["read"]["RAY_AUTH_MODE"] == "disabled"


def test_a_cluster_is_joined_as_it_is(tmp_path: Path) -> None:
    found = begun(tmp_path, RAY_ADDRESS="auto")
    assert found["read"] == {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": "auto",
    }
    assert found["given"]["address"] == "auto"
    assert "num_cpus" not in found["given"]
    assert begun(tmp_path, RAY_ADDRESS="ray://nowhere:1") == {"said": "Ray at 'ray://nowhere:1': no answer"}
    assert "Ray at '127.0.0.1:1': cannot be reached" in begun(tmp_path, RAY_ADDRESS="127.0.0.1:1")["said"]


def test_it_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ))  # What is told to Ray goes with the test.
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'encodery\[ray\]'"):
        connect_ray()
