"""A static model is served: the vectors of the library, beside models with a runtime, and no hidden states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from encodery.encoders.loading import load_dense
from encodery.encoders.static_distillation import StaticDistillationSettings, distill_static
from encodery.model.load import LoadedModel, load_model
from encodery.serve.engine import EngineSettings, ServingEngine
from encodery.serve.models import ServeSettings, open_models
from encodery.serve.served_model import InferenceRequest

DRAW = np.random.default_rng(1)
TEXTS = [" ".join(f"w{n}" for n in DRAW.integers(0, 100, size)) for size in DRAW.integers(1, 50, 40)]


@pytest.fixture
def static(base: LoadedModel, tmp_path: Path) -> Path:
    distill_static(base, tmp_path / "quick", StaticDistillationSettings(dimension=16))
    return tmp_path / "quick"


def test_a_static_model_is_served(static: Path, base: LoadedModel) -> None:
    settings = ServeSettings((f"quick={static}", f"words={base.path}"), runtime="echo")
    registry = open_models(settings)
    quick, words = registry.models_info
    assert list(quick["operations"]) == ["tokenize", "embed"]
    assert quick["operations"]["embed"]["runtime"] == "torch"
    assert words["operations"]["embed"]["runtime"] == "echo"
    assert words["operations"]["embed"]["pooling"] == "mean"
    with ServingEngine(registry.models, EngineSettings(runners=1)) as engine:

        def embed(**options: object) -> np.ndarray:
            request = InferenceRequest("quick", "embed", {"texts": TEXTS}, options)
            vectors: np.ndarray = engine.submit(request).future.result(20).arrays["vectors"]
            return vectors

        encoder = load_dense(load_model(static), "cpu")
        np.testing.assert_allclose(embed(), encoder.encode(TEXTS).vectors, atol=1e-6)
        prompted = encoder.encode(TEXTS, prompt="query").vectors
        np.testing.assert_allclose(embed(prompt="query"), prompted, atol=1e-6)
        longer = np.linalg.norm(embed(normalize=False), axis=1)
        assert np.ptp(longer) > 1e-3, "without unit length"
