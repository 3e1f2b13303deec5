"""Groups for engines that need padding, and the ONNX graph in the engines that read it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.base.errors import SettingsError
from encodery.base.parts import find_part
from encodery.base.settings import decode
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.runtimes.batch import CheckedBatch
from encodery.runtimes.kind import Runtime
from encodery.runtimes.kind.torch import TorchRuntime
from encodery.runtimes.padded import length_groups, pad_group

LENGTHS = (1, 5, 70, 16, 33, 2, 48, 3, 16, 16)
NAMES = ("onnx", "openvino")


def runtime(name: str, **settings: Any) -> Runtime:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime" if name == "onnx" else name)
    return find_part(Runtime, name)(**settings)


def batch(lengths: tuple[int, ...] = LENGTHS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.integers(0, 200, sum(lengths)), np.concatenate([[0], np.cumsum(lengths)])


def test_groups_hold_every_sequence_once_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 200)
    states = list(length_groups(lengths, 512, 2))
    assert sorted(np.concatenate(states).tolist()) == list(range(200))
    assert all(len(some) * lengths[some].max() <= 512 for some in states)
    positions = sum(len(some) * lengths[some].max() for some in states)
    assert positions < 1.1 * lengths.sum(), "sorting left too much padding"


def test_a_text_beyond_the_budget_is_a_group_and_equal_lengths_need_no_padding() -> None:
    assert [some.tolist() for some in length_groups(np.array([3, 900, 3]), 512, 1)] == [[1], [0, 2]]
    equal = np.full(40, 30)
    assert all(len(some) * 30 <= 512 for some in length_groups(equal, 512, 1))
    assert len(list(length_groups(np.array([50, 50, 50, 50]), 512, 2))) == 2, "one of two threads has nothing to do"
    assert len(list(length_groups(np.array([10, 10]), 512, 2))) == 1, "too little was divided"


def test_padding_is_masked_and_on_the_right() -> None:
    checked = CheckedBatch(np.arange(10, 16, dtype=np.int32), np.array([0, 2, 3, 6], np.int32), np.ones(6, np.int32))
    table = pad_group(checked, np.array([2, 1, 3]), np.array([2, 0]))
    assert table["input_ids"].tolist() == [[13, 14, 15], [10, 11, 0]]
    assert table["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert table["token_type_ids"].tolist() == [[1, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"width": 48, "heads": 2, "intermediate_size": 70, "type_vocab_size": 0},
        {"head_size": 8, "embedding_norm": False},
        {"block": "pre", "positions": "none"},
        {"positions": {"is": "learned", "offset": 2}},
        {"block": {"is": "pre", "first_norm": False}, "ffn": "glu", "intermediate_size": 72},
        {"ffn": {"is": "glu", "activation": "silu", "bias": False, "bias_out": False}},
        {"ffn": {"is": "mlp", "activation": "gelu_tanh"}, "norm": {"is": "layer", "bias": False}},
        {"ffn": {"is": "mlp", "activation": "relu"}, "attention": {"is": "full", "bias": False}},
        {"depth": 0},
    ],
)
def test_hidden_states_equal_those_of_the_model(
    name: str, change: dict[str, Any], randomised_model: Callable[[ModelSettings], Model]
) -> None:
    table = {"width": 64, "depth": 2, "heads": 2, "vocab_size": 200, "max_length": 80, "type_vocab_size": 2, **change}
    model = randomised_model(decode(ModelSettings, table))
    ids, cu_seqlens = batch()
    segment = np.arange(len(ids)) % 2 if model.settings.type_vocab_size else None
    expected = TorchRuntime().build(model).run(ids, cu_seqlens, segment)
    for tokens in (64, 10_000):
        states = runtime(name, threads=2, batch_tokens=tokens).build(model).run(ids, cu_seqlens, segment)
        np.testing.assert_allclose(states, expected, rtol=0, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_concurrent_callers_get_their_own_results(
    name: str, randomised_model: Callable[[ModelSettings], Model]
) -> None:
    model = randomised_model(ModelSettings(width=64, depth=2, heads=2, vocab_size=200, max_length=80))
    engine = runtime(name, threads=2, batch_tokens=128).build(model)
    batches = [batch(LENGTHS[n:]) for n in range(6)]
    expected = [TorchRuntime().build(model).pooled(*one) for one in batches]
    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(lambda one: engine.pooled(*one), batches * 3))
    for mine, other in zip(states, expected * 3, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=2e-4)


def test_onnx_runtime_fuses_the_graph(tmp_path: Path, randomised_model: Callable[[ModelSettings], Model]) -> None:
    """Attention is one node, a residual sum and its norm are one, a bias and its GELU are one."""
    onnx, engine = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from encodery.runtimes.onnx_graph import build_graph

    model = randomised_model(
        ModelSettings(width=64, depth=3, heads=2, vocab_size=200, max_length=80, type_vocab_size=2)
    )
    options = engine.SessionOptions()
    options.graph_optimization_level = engine.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    engine.InferenceSession(build_graph(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert kinds.count("Attention") == 3, kinds
    assert kinds.count("SkipLayerNormalization") == 6, kinds
    assert kinds.count("BiasGelu") == 3, kinds
    assert "Softmax" not in kinds


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "rotary"}, "positions = 'rotary': an ONNX graph supports only learned, none"),
        ({"norm": "rms"}, "norm = 'rms'"),
        ({"ffn": {"is": "mlp", "activation": "relu_squared"}}, "activation = 'relu_squared'"),
    ],
)
def test_unsupported_models_are_refused(name: str, change: dict[str, Any], message: str) -> None:
    model = build_model(decode(ModelSettings, {"width": 32, "heads": 2, "depth": 1, "vocab_size": 50, **change}))
    with pytest.raises(SettingsError, match=message):
        find_part(Runtime, name)().build(model)


def test_serving_an_export_does_not_import_pytorch() -> None:
    code = (
        "import sys, encodery.encoders.exported, encodery.runtimes.kind.onnx, encodery.runtimes.kind.openvino; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
