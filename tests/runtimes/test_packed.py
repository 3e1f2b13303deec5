"""The packed engine: the model in floats, near it in bytes, in every shape; the same to the bit in any company."""

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
from encodery.runtimes import InferenceEngine, Runtime
from encodery.runtimes._native import LIBRARY, kernels
from encodery.runtimes.packed_fp32 import PackedFP32
from encodery.runtimes.packed_int8 import PackedInt8
from encodery.runtimes.torch import TorchRuntime

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
BOTH = pytest.mark.parametrize("numbers", [PackedFP32, PackedInt8])
EXACT = 2e-5  # Of floats, of the largest number: sums are in another order, and that is all.


def batch(lengths: tuple[int, ...] = LENGTHS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.integers(0, 200, sum(lengths)), np.concatenate([[0], np.cumsum(lengths)])


def small(change: dict[str, Any]) -> ModelSettings:
    return decode(ModelSettings, {"width": 64, "depth": 2, "heads": 2, "vocab_size": 200, "max_length": 1200, **change})


def near(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The least cosine of two rows."""
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
        {"mask": {"is": "pattern", "size": 5, "whole": [1]}, "heads": 1},
        MODERN,
        MODERN
        | {"width": 96, "heads": 4, "intermediate_size": 100, "mask": {"is": "alternating", "size": 16, "every": 2}},
    ],
)
def test_hidden_states_are_near_the_models(
    change: dict[str, Any], kernel: Any, numbers: Any, livelier: Callable[[ModelSettings], Model]
) -> None:
    runnable(kernel)
    table = {"width": 64, "depth": 2, "heads": 2, "vocab_size": 200, "max_length": 80, "type_vocab_size": 2, **change}
    model = livelier(decode(ModelSettings, table))
    ids, bounds = batch()
    segment = np.arange(len(ids)) % 2 if model.settings.type_vocab_size else None
    expected = TorchRuntime().build(model).run(ids, bounds, segment)
    found = numbers(kernels=kernel, threads=2).build(model).run(ids, bounds, segment)
    assert near(found, expected) > (0.998 if numbers is PackedInt8 else 1 - 1e-6)
    assert np.abs(found - expected).max() < (0.15 if numbers is PackedInt8 else EXACT) * np.abs(expected).max()


@BOTH
@pytest.mark.parametrize("kernel", [*FASTER, "plain"])
def test_layers_may_be_uneven(kernel: Any, numbers: Any, livelier: Callable[[ModelSettings], Model]) -> None:
    """Heads and inner widths of a layer may have been pruned."""
    runnable(kernel)
    model, pruned = (
        livelier(small({"heads": 4})),
        livelier(small({"heads": 1, "head_size": 16, "intermediate_size": 100})),
    )
    model.encoder.blocks[1] = pruned.encoder.blocks[1]
    ids, bounds = batch()
    expected = TorchRuntime().build(model).run(ids, bounds)
    found = numbers(kernels=kernel, threads=2).build(model).run(ids, bounds)
    assert near(found, expected) > (0.998 if numbers is PackedInt8 else 1 - 1e-6)


def runnable(kernel: Any) -> None:
    try:
        kernels(kernel)
    except SettingsError:
        pytest.skip(f"this processor has no {kernel}")


@pytest.mark.parametrize("kernel", FASTER)
@pytest.mark.parametrize("change", [{}, MODERN])
def test_fast_kernels_compute_what_the_reference_does(
    change: dict[str, Any], kernel: Any, livelier: Callable[[ModelSettings], Model]
) -> None:
    runnable(kernel)
    model = livelier(small(change))
    ids, bounds = batch()
    reference = PackedInt8(kernels="plain", threads=1).build(model).run(ids, bounds)
    found = PackedInt8(kernels=kernel, threads=1).build(model).run(ids, bounds)
    # A sum that rounds the other way moves an activation by one step of 127: rare, and small.
    assert near(found, reference) > 0.9999
    assert np.median(np.abs(found - reference)) < 1e-3 * np.abs(reference).max()


@pytest.mark.parametrize("kernel", FASTER)
def test_the_largest_products_are_not_cut(kernel: Any, livelier: Callable[[ModelSettings], Model]) -> None:
    runnable(kernel)
    model = livelier(dataclasses.replace(SMALL, depth=1, ffn=decode(FFN, {"is": "mlp", "activation": "relu"})))
    with torch.no_grad():  # Every 8-bit value of `up` and what it meets is at its bound.
        block: Any = model.encoder.blocks[0]
        block.attention_norm.weight.zero_()
        block.attention_norm.bias.fill_(1.0)
        block.ffn.up.weight.fill_(0.1)
        block.ffn.up.weight[::2].fill_(-0.1)
        block.ffn.up.bias.zero_()
    ids, bounds = batch((4, 3))
    expected = TorchRuntime().build(model).run(ids, bounds)
    np.testing.assert_allclose(PackedInt8(kernels=kernel).build(model).run(ids, bounds), expected, atol=0.05)


@BOTH
@pytest.mark.parametrize("kernel", FASTER)
@pytest.mark.parametrize("change", [{}, MODERN, {"mask": {"is": "window", "size": 21}}])
def test_company_and_threads_change_no_bit(
    change: dict[str, Any], kernel: Any, numbers: Any, livelier: Callable[[ModelSettings], Model]
) -> None:
    runnable(kernel)
    model = livelier(small(change))
    ids, bounds = batch((1, 300, 7, 1100, 64, 513, 2, 130, 130, 130, 130))
    engines: list[InferenceEngine] = [numbers(kernels=kernel, threads=n).build(model) for n in (1, 2, 3, 5)]
    hidden = engines[0].run(ids, bounds)
    means = engines[0].pooled(ids, bounds)
    for engine in engines:
        assert np.array_equal(engine.run(ids, bounds), hidden)
        assert np.array_equal(engine.pooled(ids, bounds), means)
        for number, (start, end) in enumerate(itertools.pairwise(bounds)):
            alone = ids[start:end], np.array([0, end - start])
            assert np.array_equal(engine.run(*alone), hidden[start:end])
            assert np.array_equal(engine.pooled(*alone)[0], means[number])


@BOTH
def test_callers_do_not_meet(numbers: Any, livelier: Callable[[ModelSettings], Model]) -> None:
    engine = numbers(threads=2).build(livelier(SMALL))
    batches = [batch(LENGTHS[n:] + (90,) * n) for n in range(6)]
    expected = [engine.pooled(*one) for one in batches]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda one: engine.pooled(*one), batches * 4))
    assert all(np.array_equal(mine, other) for mine, other in zip(found, expected * 4, strict=True))


SHORT_OF_THREADS = """
import resource, threading
import numpy as np
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.runtimes.packed_int8 import PackedInt8

model = build_model(ModelSettings(width=64, depth=2, heads=2, vocab=200, max_length=1200, segments=2), 5)
engines = [PackedInt8(threads=n).build(model) for n in (1, 4)]
batches = [(np.arange(sum(lengths)) % 200, np.cumsum([0, *lengths])) for lengths in ((900,), (300,) * 9)]
expected = [engines[0].pooled(*batch) for batch in batches]
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (7 << 20),) * 2)  # A thread's stack takes 8.
try:
    threading.Thread(target=print).start()
except RuntimeError:
    found = [engines[1].pooled(*batch) for batch in batches]
    assert all(np.array_equal(one, other) for one, other in zip(expected, found))
    print("as before")
"""


def test_threads_that_cannot_be_started_are_done_without() -> None:
    code = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.RLIM_INFINITY)); "
    code += f"os.execv(sys.executable, [sys.executable, '-c', {SHORT_OF_THREADS!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "as before\n", done.stderr


FORKED = """
import os
import numpy as np
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.runtimes.packed_int8 import PackedInt8

model = build_model(ModelSettings(width=64, depth=2, heads=2, vocab=200, max_length=1200, segments=2), 5)
engine = PackedInt8(threads=3).build(model)
batches = [(np.arange(sum(lengths)) % 200, np.cumsum([0, *lengths])) for lengths in ((90,), (300,) * 9)]
expected = [engine.pooled(*batch) for batch in batches]  # By now its threads run; a child has none of them.
child = os.fork()
found = [engine.pooled(*batch) for batch in batches]
assert all(np.array_equal(one, other) for one, other in zip(expected, found))
del engine
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("as before")
"""


def test_the_child_of_a_fork_works_without_the_threads_it_has_not() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert done.stdout == "as before\n", done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "alibi"}, "positions = 'alibi': packed_int8 has only learned, none, rotary"),
        ({"norm": "rms"}, "norm = 'rms': packed_int8 has only layer"),
        ({"ffn": {"is": "mlp", "activation": "relu_squared"}}, "ffn.activation = 'relu_squared'"),
        ({"head_size": 12}, "head_size = 12: packed_int8 has only multiples of 8"),
        ({"embeddings": {"is": "factorized", "width": 8}}, "embeddings = 'factorized'"),
    ],
)
@pytest.mark.parametrize("name", ["packed_fp32", "packed_int8"])
def test_what_it_cannot_run_is_refused(change: dict[str, Any], message: str, name: str) -> None:
    model = build_model(decode(ModelSettings, {"width": 32, "heads": 2, "depth": 1, "vocab_size": 50, **change}))
    with pytest.raises(SettingsError, match=message.replace("packed_int8", name)):
        decode(Runtime, name).build(model)


@pytest.mark.parametrize("kernel", [*FASTER, "plain"])
def test_gelu_of_floats_is_exact(kernel: Any) -> None:
    """One neuron a unit, from its far left to its far right."""
    runnable(kernel)
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
    given = torch.linspace(-6, 6, 256)
    with torch.no_grad():
        for tensor in model.encoder.parameters():
            tensor.zero_()
        block.ffn.up.bias.copy_(given)
        block.ffn.down.weight.copy_(torch.eye(64).repeat(1, 4))
        model.encoder.final_norm = torch.nn.Identity()
    found = PackedFP32(kernels=kernel).build(model).run(np.array([1]), np.array([0, 1]))[0]
    expected = torch.nn.functional.gelu(given.double()).view(4, 64).sum(0).numpy()
    np.testing.assert_allclose(found, expected, atol=3e-6)
