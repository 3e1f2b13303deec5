"""OpenVINO's bindings, where several threads are the first to use them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.runtimes.openvino import OpenvinoRuntime


def test_one_thread_shows_the_bindings_an_array_before_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that were first at once waited for each other for good: one for Python's lock, the other for the first."""
    pytest.importorskip("onnx")
    openvino: Any = pytest.importorskip("openvino")
    shown: list[int] = []

    class Watched(openvino.Tensor):  # type: ignore[misc]
        @property
        def data(self) -> np.ndarray:
            shown.append(threading.get_ident())
            found: np.ndarray = super().data
            return found

    monkeypatch.setattr(openvino, "Tensor", Watched)
    model = build_model(ModelSettings(width=32, depth=1, heads=2, vocab_size=50, max_length=20), 1)
    built = OpenvinoRuntime(threads=2).build(model)
    assert shown == [threading.get_ident()]
    assert built.pooled(np.arange(40), np.arange(0, 41, 10)).shape == (4, 32)
