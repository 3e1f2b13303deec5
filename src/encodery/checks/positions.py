"""Checks of kinds of position information."""

from __future__ import annotations

import dataclasses

import torch
from torch.utils.flop_counter import FlopCounterMode

from encodery.base.parts import name_of
from encodery.base.settings import decode, encode
from encodery.model.network import build_model
from encodery.model.positions import Positions, PositionsModule
from encodery.model.positions.none import NoPositions
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Shape

SHAPE = Shape(
    vocab_size=9,
    width=12,
    depth=2,
    heads=3,
    head_size=4,
    intermediate_size=8,
    max_length=40,
    type_vocab_size=0,
    embedding_size=12,
    layer=0,
)
LAYOUT = Batch.from_sequences([[0] * 5, [0] * 9, [0] * 5]).layout
OFFSETS = (1, -1, 2, -2)


def example(part: Positions) -> PositionsModule:
    """Return a module with random weights, in fp64."""
    module = part.build(SHAPE).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return module


def repeated(size: int) -> torch.Tensor:
    """Return vectors (19, size) of three sequences, of which the first equals the last, in fp64."""
    generator = torch.Generator().manual_seed(1)
    first, middle = (torch.randn(n, size, dtype=torch.float64, generator=generator) for n in (5, 9))
    return torch.cat((first, middle, first))


def project(x: torch.Tensor) -> torch.Tensor:
    """A projection (P, H) → (P, 3·N·D), the same at each call, in fp64."""
    weight = torch.randn(12, 36, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return x.double() @ weight


def check_settings_round_trip(part: Positions) -> None:
    """The part is what its settings decode to."""
    assert decode(Positions, encode(part)) == part


def check_embeddings_depend_on_the_position_in_the_document(part: Positions) -> None:
    """`add` treats equal documents alike, wherever in the batch they are."""
    x = repeated(12)
    added = example(part).add(x.clone(), LAYOUT)
    assert added.shape == x.shape
    assert torch.equal(added[:5], added[-5:]), "the position in the batch matters"


def check_rotation(part: Positions) -> None:
    """`rotate` treats equal documents alike, preserves norms, and leaves values unchanged."""
    qkv = repeated(36)
    rotated = example(part).rotate(qkv.clone(), LAYOUT, SHAPE)
    assert rotated.shape == qkv.shape
    assert torch.equal(rotated[:5], rotated[-5:]), "the position in the batch matters"
    assert torch.equal(rotated[:, 24:], qkv[:, 24:]), "values were changed"
    torch.testing.assert_close(*(t.view(19, 3, 3, 4).norm(dim=-1) for t in (rotated, qkv)))


def check_bias_shape(part: Positions) -> None:
    """`bias` is None or (N, 2R - 1), where R is at least the longest sequence."""
    bias = example(part).bias(LAYOUT, SHAPE)
    if bias is not None:
        assert bias.shape[0] == 3
        assert bias.shape[1] % 2 == 1
        assert bias.shape[1] >= 2 * 9 - 1


def check_relative_terms(part: Positions) -> None:
    """`relative_terms` is None or has embeddings (P, N, D) of every distance between tokens of the longest sequence."""
    terms = example(part).relative_terms(project, LAYOUT, SHAPE)
    if terms is not None:
        assert terms.products > 1, "neither keys nor queries are given"
        assert len(terms.index) % 2 == 1
        assert len(terms.index) >= 2 * 9 - 1
        for vectors in (terms.keys, terms.queries):
            if vectors is not None:
                assert vectors.shape[1:] == (3, 4)
                assert 0 <= int(terms.index.min()) <= int(terms.index.max()) < len(vectors)


def check_kinds(part: Positions) -> None:
    """`kinds` names where the positions enter the model, and nothing else."""
    module, x, qkv = example(part), repeated(12), repeated(36)
    entering = {
        "embeddings": not torch.equal(module.add(x.clone(), LAYOUT), x),
        "rotation": not torch.equal(module.rotate(qkv.clone(), LAYOUT, SHAPE), qkv),
        "bias": module.bias(LAYOUT, SHAPE) is not None,
        "relative": module.relative_terms(project, LAYOUT, SHAPE) is not None,
    }
    assert {kind for kind, enters in entering.items() if enters} == part.kinds


def check_order_matters(part: Positions) -> None:
    """A model gives other hidden states when two tokens change places, unless there are no positions."""
    table = {"width": 12, "heads": 3, "vocab_size": 9, "init": {"is": "normal", "std": 0.3}}
    model = build_model(dataclasses.replace(decode(ModelSettings, table), positions=part))
    first = model(Batch.from_sequences([[1, 2, 3, 4]])).hidden
    second = model(Batch.from_sequences([[2, 1, 3, 4]])).hidden[[1, 0, 2, 3]]
    assert torch.allclose(first, second, atol=1e-5) == (name_of(part) == "none")


def check_weights_are_trained(part: Positions) -> None:
    """The hidden states of a model depend on every weight of the positions."""
    table = {"width": 12, "heads": 3, "vocab_size": 9, "init": {"is": "normal", "std": 0.3}}
    model = build_model(dataclasses.replace(decode(ModelSettings, table), positions=part))
    hidden = model(Batch.from_sequences([list(range(9)), [3, 1, 4]])).hidden
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    for name, weight in model.encoder.positions.named_parameters():
        assert weight.grad is not None, f"{name} has no gradient"
        assert weight.grad.any(), f"the gradient of {name} is zero"


def check_cost(part: Positions) -> None:
    """`cost` counts the products that the positions add to a layer, besides projections of embeddings of distances."""
    table = {"width": 12, "depth": 1, "heads": 3, "intermediate_size": 8, "vocab_size": 9, "head": None}
    with_part = dataclasses.replace(decode(ModelSettings, table), positions=part)
    without = dataclasses.replace(with_part, positions=NoPositions())
    batch = Batch.from_sequences([[1] * 64] * 64)
    counted = []
    for settings in (with_part, without):
        with FlopCounterMode(display=False) as counter:
            build_model(settings).requires_grad_(False)(batch)
        counted.append(counter.get_total_flops() / batch.tokens)
    added, cost = counted[0] - counted[1], part.cost(with_part.layer_shapes[0], 64)
    assert abs(cost.flops - added) <= 0.05 * counted[0], f"cost says {cost.flops} operations per token, not {added}"
    assert cost.kept >= 0


def check_offset_patterns(part: Positions) -> None:
    """A head with an offset pattern attends to the token at that offset."""
    shape = dataclasses.replace(SHAPE, width=64, embedding_size=64, heads=1, head_size=64)
    for offset in OFFSETS:
        module = part.build(shape)
        generator = torch.Generator().manual_seed(1)
        module.init_offset_features(0.1, generator)
        pattern = module.offset_pattern(offset, 12.0, shape)
        assert pattern is not None, f"there is no pattern for offset {offset}"
        layout = Batch.from_sequences([[0] * 38]).layout
        embeddings = 0.1 * torch.randn(38, 64, generator=generator)
        x = torch.nn.functional.layer_norm(module.add(embeddings, layout), (64,))
        both = torch.zeros(2, 38, 64)
        both = both if pattern.weights is None else both + torch.einsum("th,wdh->wtd", x, pattern.weights)
        both = both if pattern.biases is None else both + pattern.biases[:, None]
        qkv = torch.cat([*both, torch.zeros(38, 64)], 1)
        query, key, _ = module.rotate(qkv, layout, shape).view(38, 3, 64).unbind(1)
        attended = (query @ key.T / 8).softmax(1).diagonal(offset)
        assert attended.median() > 0.5, f"offset {offset}: the median of the weights is {attended.median():.2f}"
        assert attended.min() > 2 / 38, f"offset {offset}: the smallest weight is {attended.min():.2f}"
