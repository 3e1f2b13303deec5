"""The packed engine: equal to the model in fp32, near it in int8, bit-identical in any batch and on any threads."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.model.ffn import FFN
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.runtimes.engine import InferenceEngine
from encodery.runtimes.kind import Runtime
from encodery.runtimes.kind.packed_fp32 import PackedFP32
from encodery.runtimes.kind.packed_int8 import PackedInt8
from encodery.runtimes.kind.torch import TorchRuntime
from encodery.runtimes.native import LIBRARY, kernels

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="the packed engine was not compiled at install")
LENGTHS = (1, 5, 70, 16, 33, 2, 48, 3)
SMALL = ModelSettings(width=64, depth=2, heads=2, vocab_size=200, max_length=1200, type_vocab_size=2)
BARE = {"bias": False, "bias_out": False}
MODERN: dict[str, Any] = {
    "depth": 4,
    "type_vocab_size": 0,
    "positions": {"is": "rotary", "theta": 9000.0, "local_theta": 800.0},
    "attention": {"is": "full", **BARE},
    "mask": {"is": "alternating", "size": 7, "every": 3},
    "ffn": {"is": "glu", **BARE},
    "norm": {"is": "layer", "eps": 1e-5, "bias": False},
    "block": {"is": "pre", "first_norm": False},
}
FASTER: tuple[Any, ...] = ("avx512_vnni", "avx2")
BOTH = pytest.mark.parametrize("runtime", [PackedFP32, PackedInt8])
FP32_TOLERANCE = 2e-5  # relative to the largest number: only the order of sums differs


def batch(lengths: tuple[int, ...] = LENGTHS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.integers(0, 200, sum(lengths)), np.concatenate([[0], np.cumsum(lengths)])


def small(change: dict[str, Any]) -> ModelSettings:
    return decode(ModelSettings, {"width": 64, "depth": 2, "heads": 2, "vocab_size": 200, "max_length": 1200, **change})


def min_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The lowest cosine between corresponding rows."""
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(1) / lengths).min())


@BOTH
@pytest.mark.parametrize("kernel", [*FASTER, "plain"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"width": 40, "heads": 5, "intermediate_size": 56},
        {"width": 48, "heads": 2, "intermediate_size": 70, "type_vocab_size": 0},
        {"heads": 1},
        {"head_size": 8, "embedding_norm": False},
        {"block": "pre", "positions": "none"},
        {"block": {"is": "pre", "first_norm": False}, "ffn": "glu", "intermediate_size": 72},
        {"ffn": {"is": "glu", "activation": "silu", "bias": False, "bias_out": False}},
        {"ffn": {"is": "mlp", "activation": "gelu_tanh"}, "norm": {"is": "layer", "bias": False}},
        {"ffn": {"is": "mlp", "activation": "relu"}, "attention": {"is": "full", "bias": False}},
        {"depth": 0},
        {"positions": "rotary"},
        {"positions": "rotary", "head_size": 8, "mask": {"is": "window", "size": 0}},
        {"mask": {"is": "pattern", "size": 5, "global_layers": [1]}, "heads": 1},
        MODERN,
        MODERN
        | {"width": 96, "heads": 4, "intermediate_size": 100, "mask": {"is": "alternating", "size": 16, "every": 2}},
    ],
)
def test_hidden_states_are_near_those_of_the_model(
    change: dict[str, Any], kernel: Any, runtime: Any, randomised_model: Callable[[ModelSettings], Model]
) -> None:
    skip_unless_supported(kernel)
    table = {"width": 64, "depth": 2, "heads": 2, "vocab_size": 200, "max_length": 80, "type_vocab_size": 2, **change}
    model = randomised_model(decode(ModelSettings, table))
    ids, cu_seqlens = batch()
    segment = np.arange(len(ids)) % 2 if model.settings.type_vocab_size else None
    expected = TorchRuntime().build(model).run(ids, cu_seqlens, segment)
    states = runtime(kernels=kernel, threads=2).build(model).run(ids, cu_seqlens, segment)
    assert min_cosine(states, expected) > (0.998 if runtime is PackedInt8 else 1 - 1e-6)
    assert (
        np.abs(states - expected).max() < (0.15 if runtime is PackedInt8 else FP32_TOLERANCE) * np.abs(expected).max()
    )


@BOTH
@pytest.mark.parametrize("kernel", [*FASTER, "plain"])
def test_layers_may_be_uneven(kernel: Any, runtime: Any, randomised_model: Callable[[ModelSettings], Model]) -> None:
    """Heads and intermediate sizes may differ from layer to layer."""
    skip_unless_supported(kernel)
    sizes = [{"heads": 1, "intermediate_size": 100}, {"heads": 3}, {"intermediate_size": 8}]
    model = randomised_model(small({"depth": 3, "heads": 4, "layers": sizes}))
    ids, cu_seqlens = batch()
    expected = TorchRuntime().build(model).run(ids, cu_seqlens)
    states = runtime(kernels=kernel, threads=2).build(model).run(ids, cu_seqlens)
    assert min_cosine(states, expected) > (0.998 if runtime is PackedInt8 else 1 - 1e-6)


def skip_unless_supported(kernel: Any) -> None:
    try:
        kernels(kernel)
    except SettingsError:
        pytest.skip(f"this processor has no {kernel}")


@pytest.mark.parametrize("kernel", FASTER)
@pytest.mark.parametrize("change", [{}, MODERN])
def test_fast_kernels_equal_the_reference(
    change: dict[str, Any], kernel: Any, randomised_model: Callable[[ModelSettings], Model]
) -> None:
    skip_unless_supported(kernel)
    model = randomised_model(small(change))
    ids, cu_seqlens = batch()
    reference = PackedInt8(kernels="plain", threads=1).build(model).run(ids, cu_seqlens)
    states = PackedInt8(kernels=kernel, threads=1).build(model).run(ids, cu_seqlens)
    # A sum that is rounded the other way changes an activation by one step of 127: rare, and small.
    assert min_cosine(states, reference) > 0.9999
    assert np.median(np.abs(states - reference)) < 1e-3 * np.abs(reference).max()


@pytest.mark.parametrize("kernel", FASTER)
def test_the_largest_products_do_not_overflow(kernel: Any, randomised_model: Callable[[ModelSettings], Model]) -> None:
    skip_unless_supported(kernel)
    model = randomised_model(dataclasses.replace(SMALL, depth=1, ffn=decode(FFN, {"is": "mlp", "activation": "relu"})))
    with torch.no_grad():  # All 8-bit values of `up` and of its inputs are at their limits.
        block: Any = model.encoder.blocks[0]
        block.attention_norm.weight.zero_()
        block.attention_norm.bias.fill_(1.0)
        block.ffn.up.weight.fill_(0.1)
        block.ffn.up.weight[::2].fill_(-0.1)
        block.ffn.up.bias.zero_()
    ids, cu_seqlens = batch((4, 3))
    expected = TorchRuntime().build(model).run(ids, cu_seqlens)
    np.testing.assert_allclose(PackedInt8(kernels=kernel).build(model).run(ids, cu_seqlens), expected, atol=0.05)


@BOTH
@pytest.mark.parametrize("kernel", FASTER)
@pytest.mark.parametrize("change", [{}, MODERN, {"mask": {"is": "window", "size": 21}}])
def test_other_sequences_and_threads_change_no_bit(
    change: dict[str, Any], kernel: Any, runtime: Any, randomised_model: Callable[[ModelSettings], Model]
) -> None:
    skip_unless_supported(kernel)
    model = randomised_model(small(change))
    ids, cu_seqlens = batch((1, 300, 7, 1100, 64, 513, 2, 130, 130, 130, 130))
    engines: list[InferenceEngine] = [runtime(kernels=kernel, threads=n).build(model) for n in (1, 2, 3, 5)]
    hidden = engines[0].run(ids, cu_seqlens)
    means = engines[0].pooled(ids, cu_seqlens)
    for engine in engines:
        assert np.array_equal(engine.run(ids, cu_seqlens), hidden)
        assert np.array_equal(engine.pooled(ids, cu_seqlens), means)
        for number, (start, end) in enumerate(itertools.pairwise(cu_seqlens)):
            alone = ids[start:end], np.array([0, end - start])
            assert np.array_equal(engine.run(*alone), hidden[start:end])
            assert np.array_equal(engine.pooled(*alone)[0], means[number])


@BOTH
def test_concurrent_callers_get_their_own_results(
    runtime: Any, randomised_model: Callable[[ModelSettings], Model]
) -> None:
    engine = runtime(threads=2).build(randomised_model(SMALL))
    batches = [batch(LENGTHS[n:] + (90,) * n) for n in range(6)]
    expected = [engine.pooled(*one) for one in batches]
    with ThreadPoolExecutor(6) as pool:
        states = list(pool.map(lambda one: engine.pooled(*one), batches * 4))
    assert all(np.array_equal(mine, other) for mine, other in zip(states, expected * 4, strict=True))


NO_MEMORY_FOR_THREADS = """
import resource, threading
import numpy as np
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.runtimes.kind.packed_int8 import PackedInt8

model = build_model(ModelSettings(width=64, depth=2, heads=2, vocab_size=200, max_length=1200, type_vocab_size=2), 5)
engines = [PackedInt8(threads=n).build(model) for n in (1, 4)]
batches = [(np.arange(sum(lengths)) % 200, np.cumsum([0, *lengths])) for lengths in ((900,), (300,) * 9)]
expected = [engines[0].pooled(*batch) for batch in batches]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (7 << 20),) * 2)  # A thread's stack needs 8 MiB.
try:
    threading.Thread(target=print).start()
except RuntimeError:
    states = [engines[1].pooled(*batch) for batch in batches]
    assert all(np.array_equal(one, other) for one, other in zip(expected, states))
    print("equal")
"""


def test_it_runs_without_threads_that_cannot_be_started() -> None:
    code = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.RLIM_INFINITY)); "
    code += f"os.execv(sys.executable, [sys.executable, '-c', {NO_MEMORY_FOR_THREADS!r}])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout == "equal\n", result.stderr


FORKED = """
import os
import numpy as np
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.runtimes.kind.packed_int8 import PackedInt8

model = build_model(ModelSettings(width=64, depth=2, heads=2, vocab_size=200, max_length=1200, type_vocab_size=2), 5)
engine = PackedInt8(threads=3).build(model)
batches = [(np.arange(sum(lengths)) % 200, np.cumsum([0, *lengths])) for lengths in ((90,), (300,) * 9)]
expected = [engine.pooled(*batch) for batch in batches]  # By now its threads run; a child process has none of them.
child = os.fork()
states = [engine.pooled(*batch) for batch in batches]
assert all(np.array_equal(one, other) for one, other in zip(expected, states))
del engine
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("equal")
"""


def test_it_runs_in_a_forked_child_without_its_threads() -> None:
    result = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert result.stdout == "equal\n", result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "alibi"}, "positions = 'alibi': packed_int8 supports only learned, none, rotary"),
        ({"norm": "rms"}, "norm = 'rms': packed_int8 supports only layer"),
        ({"ffn": {"is": "mlp", "activation": "relu_squared"}}, "ffn.activation = 'relu_squared'"),
        (
            {"depth": 2, "layers": [{}, {"heads": 0}]},
            "layer 1 has no attention, and packed_int8 supports only layers with both",
        ),
        ({"depth": 2, "layers": [{"intermediate_size": 0}, {}]}, "layer 0 has no feed-forward"),
        ({"head_size": 12}, "head_size = 12: packed_int8 supports only multiples of 8"),
        ({"embeddings": {"is": "factorized", "width": 8}}, "embeddings = 'factorized'"),
    ],
)
@pytest.mark.parametrize("name", ["packed_fp32", "packed_int8"])
def test_unsupported_models_are_refused(change: dict[str, Any], message: str, name: str) -> None:
    model = build_model(decode(ModelSettings, {"width": 32, "heads": 2, "depth": 1, "vocab_size": 50, **change}))
    with pytest.raises(SettingsError, match=message.replace("packed_int8", name)):
        decode(Runtime, name).build(model)


@pytest.mark.parametrize("kernel", [*FASTER, "plain"])
def test_gelu_in_fp32_is_exact(kernel: Any) -> None:
    """Each neuron has another input, from -6 to 6."""
    skip_unless_supported(kernel)
    table = {
        "width": 64,
        "heads": 1,
        "depth": 1,
        "vocab_size": 9,
        "max_length": 200,
        "positions": "none",
        "block": "pre",
    }
    model = build_model(decode(ModelSettings, table))
    block: Any = model.encoder.blocks[0]
    inputs = torch.linspace(-6, 6, 256)
    with torch.no_grad():
        for tensor in model.encoder.parameters():
            tensor.zero_()
        block.ffn.up.bias.copy_(inputs)
        block.ffn.down.weight.copy_(torch.eye(64).repeat(1, 4))
        model.encoder.final_norm = torch.nn.Identity()
    states = PackedFP32(kernels=kernel).build(model).run(np.array([1]), np.array([0, 1]))[0]
    expected = torch.nn.functional.gelu(inputs.double()).view(4, 64).sum(0).numpy()
    np.testing.assert_allclose(states, expected, atol=3e-6)
