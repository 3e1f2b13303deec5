"""An accelerated model gives the same states, and uses its own encoder for what the engine cannot do."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from encodery.adapt.lora import Lora
from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.runtimes import packed
from encodery.runtimes.batch import CheckedBatch
from encodery.runtimes.kind.packed_fp32 import PackedFP32
from encodery.runtimes.native import LIBRARY
from encodery.runtimes.packed_encoder import accelerate, original_model

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="the packed engine was not compiled at install")
SMALL = ModelSettings(width=64, depth=2, heads=2, vocab_size=200, max_length=100, type_vocab_size=2)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of threads of each call of the engine."""
    threads_used: list[int] = []
    original = packed.PackedEngine.hidden_states_with_threads

    def counted(self: packed.PackedEngine, batch: CheckedBatch, threads: int) -> np.ndarray:
        threads_used.append(threads)
        return original(self, batch, threads)

    monkeypatch.setattr(packed.PackedEngine, "hidden_states_with_threads", counted)
    return threads_used


def batch() -> Batch:
    sequences = [np.arange(n) * 7 % 200 for n in (1, 30, 12, 90)]
    return Batch.from_sequences([row.tolist() for row in sequences])


def test_states_equal_the_models_and_come_from_the_engine(
    randomised_model: Callable[[ModelSettings], Model], runs: list[int]
) -> None:
    model = randomised_model(SMALL).eval()
    accelerated = accelerate(model)
    with torch.inference_mode():
        expected = model.encoder(batch()).hidden
        assert not runs
        torch.testing.assert_close(accelerated.encoder(batch()).hidden, expected, atol=2e-5, rtol=0)
        assert runs == [torch.get_num_threads()]
        segmented = dataclasses.replace(batch(), segment=torch.arange(133) % 2)
        torch.testing.assert_close(
            accelerated.encoder(segmented).hidden, model.encoder(segmented).hidden, atol=2e-5, rtol=0
        )
        logits = accelerated(batch()).mlm_logits(accelerated.encoder(batch()).hidden[:5])
        torch.testing.assert_close(logits, model(batch()).mlm_logits(expected[:5]), atol=1e-4, rtol=0)
    assert original_model(accelerated) is model
    assert original_model(model) is model


def test_what_the_engine_cannot_compute_comes_from_the_encoder(runs: list[int]) -> None:
    model = build_model(SMALL, 1).eval()
    accelerated = accelerate(model)
    with torch.inference_mode():
        layers = accelerated.encoder(batch(), keep_layers=True).layers
        assert layers is not None
        assert len(layers) == 3
    hidden = accelerated.encoder(batch()).hidden
    hidden.sum().backward()
    assert model.encoder.blocks[0].ffn.up.weight.grad is not None  # type: ignore[union-attr]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(accelerated.encoder(batch()).hidden.float(), hidden)
    with torch.inference_mode():
        accelerated.encoder.train()(batch())
    assert not runs


def test_changed_weights_are_noticed(randomised_model: Callable[[ModelSettings], Model], runs: list[int]) -> None:
    model = randomised_model(SMALL).eval()
    accelerated = accelerate(model)
    with torch.no_grad():
        accelerated.encoder(batch())
        model.encoder.blocks[1].ffn.down.weight.mul_(-3.0)  # type: ignore[operator, union-attr]
        assert torch.equal(accelerated.encoder(batch()).hidden, model.encoder(batch()).hidden)
    assert len(runs) == 1


def test_replaced_weights_and_layers_are_noticed(
    randomised_model: Callable[[ModelSettings], Model], runs: list[int]
) -> None:
    with torch.no_grad():
        for change in ("data", "parameter", "layer"):
            model = randomised_model(SMALL).eval()
            accelerated = accelerate(model)
            accelerated.encoder(batch())
            down: Any = model.encoder.blocks[1].ffn.down  # type: ignore[union-attr]
            if change == "data":
                down.weight.data = down.weight.data * -3
            elif change == "parameter":
                down.weight = torch.nn.Parameter(down.weight * -3)
            else:
                Lora(alpha=64).apply(model, torch.Generator().manual_seed(0))
                for name, weight in model.encoder.named_parameters():
                    weight.add_(0.1 if ".b" in name else 0.0)
            assert torch.equal(accelerated.encoder(batch()).hidden, model.encoder(batch()).hidden), change
    assert len(runs) == 3


def test_weights_that_are_not_finite_are_left_to_the_model(runs: list[int]) -> None:
    model = build_model(SMALL, 1).eval()
    with torch.no_grad():
        model.encoder.blocks[1].ffn.down.weight[0, 0] = float("nan")  # type: ignore[index, union-attr]
        for _ in range(2):
            assert accelerate(model).encoder(batch()).hidden.isnan().any()
    assert not runs


def test_it_is_stored_and_copied_like_the_model() -> None:
    model = build_model(SMALL, 1)
    accelerated = accelerate(model)
    assert list(accelerated.state_dict()) == list(model.state_dict())
    assert list(accelerated.encoder.state_dict()) == list(model.encoder.state_dict())
    assert accelerated.encoder.token_embeddings is model.encoder.token_embeddings
    assert accelerated.encoder.blocks is model.encoder.blocks
    copied = copy.deepcopy(accelerated)
    assert type(copied.encoder) is type(model.encoder)
    assert copied.encoder.token_embeddings is not model.encoder.token_embeddings


def test_models_that_the_engine_cannot_run_are_returned_unchanged() -> None:
    alibi = build_model(decode(ModelSettings, {"width": 32, "heads": 2, "vocab_size": 50, "positions": "alibi"}))
    assert accelerate(alibi) is alibi
    low = build_model(SMALL, 1).to(torch.bfloat16)
    assert accelerate(low) is low
    away = build_model(SMALL, 1).to("meta")
    assert accelerate(away) is away


def test_adapted_layers_are_refused() -> None:
    model = build_model(SMALL, 1)
    Lora().apply(model, torch.Generator().manual_seed(0))
    with pytest.raises(SettingsError, match=r"is a _LoraLinear, which packed_fp32"):
        PackedFP32().build(model)
    assert accelerate(model) is model
