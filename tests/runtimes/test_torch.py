"""The torch runtime: lower precision, and one compiled graph for each size of a batch."""

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
from encodery.runtimes.kind.torch import CompiledGraphs, TorchRuntime, _TorchEngine, padded_size

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


def engine_with_graphs(model: Model) -> tuple[_TorchEngine, list[int]]:
    """An engine whose graphs run without a compiler, and a list that receives the size of each graph."""
    sizes_compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        sizes_compiled.append(max(len(one) for one in inputs if one.dtype == torch.int64 and one.dim() == 1))
        return graph.forward

    return _TorchEngine(model.eval(), torch.float32, CompiledGraphs(model, backend)), sizes_compiled


@pytest.mark.parametrize("change", [SMALL, {**SMALL, "type_vocab_size": 2}, MODERN])
def test_a_graph_serves_every_batch_of_its_size(
    change: dict[str, Any], randomised_model: Callable[[ModelSettings], Model]
) -> None:
    model = randomised_model(decode(ModelSettings, change))
    plain, (engine, sizes_compiled) = TorchRuntime().build(model), engine_with_graphs(model)
    for lengths in ((40, 7, 13), (5, 50), (64,), (3, 3, 58), (80, 80, 9)):
        ids, cu_seqlens = batch(*lengths)
        segment = (np.arange(len(ids)) % 2) if model.settings.type_vocab_size else None
        states, expected = engine.run(ids, cu_seqlens, segment), plain.run(ids, cu_seqlens, segment)
        np.testing.assert_allclose(states, expected, rtol=1e-4, atol=1e-5)
    assert sizes_compiled == [padded_size(60), padded_size(169)]


def test_concurrent_callers_of_graphs_get_their_own_results(randomised_model: Callable[[ModelSettings], Model]) -> None:
    model = randomised_model(decode(ModelSettings, SMALL))
    plain, (engine, sizes_compiled) = TorchRuntime().build(model), engine_with_graphs(model)
    batches = [batch(*lengths, seed=seed) for seed, lengths in enumerate([(40, 7, 13), (5, 50), (30,), (3, 3, 58)] * 3)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda one: engine.run(*one), batches))
    for arguments, states in zip(batches, results, strict=True):
        np.testing.assert_allclose(states, plain.run(*arguments), rtol=1e-4, atol=1e-5)
    assert sorted(sizes_compiled) == [padded_size(30), padded_size(60)]


def test_a_batch_of_many_short_sequences_runs_without_a_graph(
    randomised_model: Callable[[ModelSettings], Model],
) -> None:
    model = randomised_model(decode(ModelSettings, SMALL))
    engine, sizes_compiled = engine_with_graphs(model)
    ids, cu_seqlens = batch(*[1] * 60)
    np.testing.assert_array_equal(engine.run(ids, cu_seqlens), TorchRuntime().build(model).run(ids, cu_seqlens))
    assert not sizes_compiled


def test_there_are_few_sizes_with_little_padding() -> None:
    sizes = {padded_size(tokens) for tokens in range(1, 8193)}
    assert len(sizes) < 80
    assert all(tokens <= padded_size(tokens) < max(tokens * 9 / 8 + 1, tokens + 16) for tokens in range(1, 8193))


def test_lower_precision_is_near(randomised_model: Callable[[ModelSettings], Model]) -> None:
    model = randomised_model(decode(ModelSettings, SMALL))
    ids, cu_seqlens = batch(40, 7, 13)
    expected, states = (
        TorchRuntime().build(model).run(ids, cu_seqlens),
        TorchRuntime(precision="bf16").build(model).run(ids, cu_seqlens),
    )
    assert states.dtype == np.float32
    cosine = (expected * states).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(states, axis=1)
    assert 0.999 < cosine.min() < 1 - 1e-9


def test_settings_follow_the_name() -> None:
    assert parse_runtime("torch,precision=bf16,graphs=true") == TorchRuntime(precision="bf16", graphs=True)
    assert dataclasses.replace(TorchRuntime(), device="cpu") == parse_runtime("torch,device=cpu")
    with pytest.raises(SettingsError, match="precision"):
        parse_runtime("torch,precison=bf16")
