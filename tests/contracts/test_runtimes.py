"""Contract of runtimes: whatever parts lie in the folder."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from encodery.base.errors import InputError
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.runtimes import InferenceEngine, Runtime
from encodery.runtimes._native import LIBRARY

SETTINGS = ModelSettings(width=32, depth=2, heads=4, vocab_size=90, max_length=20, type_vocab_size=2)
IDS = np.arange(30, dtype=np.int64) * 7 % 90
BOUNDS = np.array([0, 1, 21, 30], np.int32)
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}


def engine(name: str) -> InferenceEngine:
    if name.startswith("packed_") and not LIBRARY.is_file():
        pytest.skip("the packed engine was not compiled at install")
    for package in PACKAGES.get(name, ()):
        pytest.importorskip(package)
    return find_part(Runtime, name)().build(build_model(SETTINGS, 1))


@pytest.mark.parametrize("name", part_names(Runtime))
def test_what_every_runtime_promises(name: str) -> None:
    part = find_part(Runtime, name)()
    assert decode(Runtime, encode(part)) == part
    built = engine(name)
    hidden = built.run(IDS, BOUNDS)
    assert hidden.shape == (30, 32)
    assert hidden.dtype == np.float32
    for start, end in itertools.pairwise(BOUNDS):
        alone = built.run(IDS[start:end], np.array([0, end - start]))
        np.testing.assert_allclose(alone, hidden[start:end], atol=1e-5)
    means = np.stack([hidden[a:b].mean(0) for a, b in itertools.pairwise(BOUNDS)])
    np.testing.assert_allclose(built.pooled(IDS, BOUNDS), means, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(built.pooled(IDS, BOUNDS, "cls"), hidden[BOUNDS[:-1]])


@pytest.mark.parametrize("name", part_names(Runtime))
@pytest.mark.parametrize(
    ("ids", "bounds", "segment", "message"),
    [
        ([3, 90], [0, 2], None, "0 … 89 is allowed"),
        ([3, -1], [0, 2], None, "0 … 89 is allowed"),
        ([3, 4], [0, 3], None, "from 0 to the 2 tokens"),
        ([3, 4], [1, 2], None, "from 0 to the 2 tokens"),
        ([3, 4], [0, 0, 2], None, "at least one token"),
        ([3, 4, 5], [0, 2, 1, 3], None, "at least one token"),
        ([3] * 21, [0, 21], None, "21 tokens is longer than the model's 20"),
        ([3, 4], [0, 2], [0, 2], "segment: 0 … 2 is given"),
        ([3, 4], [0, 2], [0], "1 entries for 2 tokens"),
        ([], [0], None, "from 0 to the 0 tokens"),
        ([0.5, 1.0], [0, 2], None, "whole numbers"),
    ],
)
def test_what_does_not_fit_is_refused(
    name: str, ids: list[int], bounds: list[int], segment: list[int] | None, message: str
) -> None:
    given = np.array(ids) if ids else np.zeros(0, np.int64)
    with pytest.raises(InputError, match=message):
        engine(name).run(given, np.array(bounds), None if segment is None else np.array(segment))
