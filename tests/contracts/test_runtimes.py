"""Contract of the runtimes: every check of `encodery.checks.runtimes` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import runtimes
from encodery.runtimes.kind import Runtime
from encodery.runtimes.native import LIBRARY

PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}


@pytest.mark.parametrize("check", checks.functions(runtimes), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Runtime))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    if name.startswith("packed_") and not LIBRARY.is_file():
        pytest.skip("the packed engine was not compiled at install")
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    run_check(check, find_part(Runtime, name)())
