"""OpenVINO's bindings, when several threads are the first to use them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.runtimes.kind.openvino import OpenvinoRuntime


def test_one_thread_uses_an_array_before_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that were first at the same time waited for each other: one for Python's lock, one for the other."""
    pytest.importorskip("onnx")
    openvino: Any = pytest.importorskip("openvino")
    reading_threads: list[int] = []

    class RecordingTensor(openvino.Tensor):  # type: ignore[misc]
        @property
        def data(self) -> np.ndarray:
            reading_threads.append(threading.get_ident())
            array: np.ndarray = super().data
            return array

    monkeypatch.setattr(openvino, "Tensor", RecordingTensor)
    model = build_model(ModelSettings(width=32, depth=1, heads=2, vocab_size=50, max_length=20), 1)
    built = OpenvinoRuntime(threads=2).build(model)
    assert reading_threads == [threading.get_ident()]
    assert built.pooled(np.arange(40), np.arange(0, 41, 10)).shape == (4, 32)
