"""The torch runtime: products in fewer bits, and one compiled graph for each size of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.encoders.exported import parse_runtime
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.runtimes.torch import CompiledGraphs, TorchRuntime, _TorchEngine, padded_size

SMALL = {"width": 64, "depth": 2, "heads": 2, "vocab_size": 200, "max_length": 80}
MODERN = {
    **SMALL,
    "embedding_norm": False,
    "positions": {"is": "rotary"},
    "block": {"is": "pre"},
    "mask": {"is": "window", "size": 9},
}


def batch(*lengths: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 200, sum(lengths)), np.cumsum([0, *lengths])


def graphed(model: Model) -> tuple[_TorchEngine, list[int]]:
    """An engine whose graphs run without a compiler, and the sizes of the graphs made so far."""
    made: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        made.append(max(len(one) for one in inputs if one.dtype == torch.int64 and one.dim() == 1))
        return graph.forward

    return _TorchEngine(model.eval(), torch.float32, CompiledGraphs(model, backend)), made


@pytest.mark.parametrize("change", [SMALL, {**SMALL, "type_vocab_size": 2}, MODERN])
def test_a_graph_of_a_size_serves_every_batch_of_it(
    change: dict[str, Any], livelier: Callable[[ModelSettings], Model]
) -> None:
    model = livelier(decode(ModelSettings, change))
    plain, (engine, made) = TorchRuntime().build(model), graphed(model)
    for lengths in ((40, 7, 13), (5, 50), (64,), (3, 3, 58), (80, 80, 9)):
        ids, bounds = batch(*lengths)
        segment = (np.arange(len(ids)) % 2) if model.settings.type_vocab_size else None
        found, wanted = engine.run(ids, bounds, segment), plain.run(ids, bounds, segment)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert made == [padded_size(60), padded_size(169)]


def test_callers_of_graphs_do_not_meet(livelier: Callable[[ModelSettings], Model]) -> None:
    model = livelier(decode(ModelSettings, SMALL))
    plain, (engine, made) = TorchRuntime().build(model), graphed(model)
    batches = [batch(*lengths, seed=seed) for seed, lengths in enumerate([(40, 7, 13), (5, 50), (30,), (3, 3, 58)] * 3)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda given: engine.run(*given), batches))
    for given, one in zip(batches, found, strict=True):
        np.testing.assert_allclose(one, plain.run(*given), rtol=1e-4, atol=1e-5)
    assert sorted(made) == [padded_size(30), padded_size(60)]


def test_a_batch_of_many_short_sequences_goes_without_a_graph(livelier: Callable[[ModelSettings], Model]) -> None:
    model = livelier(decode(ModelSettings, SMALL))
    engine, made = graphed(model)
    ids, bounds = batch(*[1] * 60)
    np.testing.assert_array_equal(engine.run(ids, bounds), TorchRuntime().build(model).run(ids, bounds))
    assert not made


def test_sizes_are_few_and_near() -> None:
    sizes = {padded_size(tokens) for tokens in range(1, 8193)}
    assert len(sizes) < 80
    assert all(tokens <= padded_size(tokens) < max(tokens * 9 / 8 + 1, tokens + 16) for tokens in range(1, 8193))


def test_products_in_fewer_bits_are_near(livelier: Callable[[ModelSettings], Model]) -> None:
    model = livelier(decode(ModelSettings, SMALL))
    ids, bounds = batch(40, 7, 13)
    wanted, found = (
        TorchRuntime().build(model).run(ids, bounds),
        TorchRuntime(precision="bf16").build(model).run(ids, bounds),
    )
    assert found.dtype == np.float32
    cosine = (wanted * found).sum(1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(found, axis=1)
    assert 0.999 < cosine.min() < 1 - 1e-9


def test_settings_stand_behind_the_name() -> None:
    assert parse_runtime("torch,precision=bf16,graphs=true") == TorchRuntime(precision="bf16", graphs=True)
    assert dataclasses.replace(TorchRuntime(), device="cpu") == parse_runtime("torch,device=cpu")
    with pytest.raises(SettingsError, match="precision"):
        parse_runtime("torch,precison=bf16")
