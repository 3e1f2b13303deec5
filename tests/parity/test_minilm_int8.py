"""all-MiniLM-L6-v2 in 8 bits: near its own vectors over real text, the same in any company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encodery.embed.embedder import Embedder
from encodery.model.load import load_model
from encodery.runtimes._native import LIBRARY
from encodery.runtimes.packed_int8 import PackedInt8
from encodery.runtimes.torch import Torch


@pytest.mark.skipif(not LIBRARY.is_file(), reason="the packed int8 engine was not compiled at install")
def test_vectors_are_near_those_of_the_model(minilm: Path, texts: list[str]) -> None:
    embedder = Embedder.of(load_model(minilm), "cpu")
    some = texts[:60]
    exact = embedder.encode(some, truncate="right").vectors
    small = embedder.on(PackedInt8())
    found = small.encode(some, truncate="right").vectors
    cosine = (exact * found).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(found, axis=1)
    assert cosine.mean() >= 0.997
    assert cosine.min() >= 0.99
    assert np.array_equal(small.encode(some[7:9], truncate="right").vectors, found[7:9])
    assert small.fingerprint != embedder.fingerprint
    reference = embedder.on(Torch()).encode(some, truncate="right").vectors
    np.testing.assert_allclose(reference, exact, atol=2e-5)
