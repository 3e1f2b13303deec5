"""A packed batch gives what its sequences give alone, forward and backward, for every combination of parts."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from encodery.base.parts import Part, part_names
from encodery.base.settings import decode
from encodery.model.blocks import Block
from encodery.model.embeddings import Embeddings
from encodery.model.ffn import FFN
from encodery.model.masks import Mask
from encodery.model.network import Model, build_model
from encodery.model.norms import Norm
from encodery.model.positions import Positions
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

LENGTHS = (17, 16, 16, 14, 9, 2, 2, 1)
COMPOSITE = {
    "block": {"is": "pattern", "of": ["pre", "post"]},
    "ffn": {"is": "pattern", "of": [{"is": "low_rank", "ffn": "mlp", "rank": 3}, {"is": "mixture", "expert": "glu"}]},
}
SMALL = {
    "window": {"size": 3}, "alternating": {"size": 2, "every": 2}, "factorized": {"width": 6},
    "relative_bias": {"buckets": 8, "max_distance": 12}, "disentangled": {"buckets": 8, "max_distance": 12},
    "sum": {"of": ["rotary", "learned", "relative_bias", "alibi", "disentangled"]},
}  # fmt: skip


def part(name: str) -> dict[str, object]:
    return {"is": name, **SMALL.get(name, {})}


def simple(contract: type[Part]) -> list[str]:
    """The parts of a family that have no parts as fields."""
    return [name for name in part_names(contract) if name not in ("pattern", "mixture", "low_rank")]


def alone() -> list[str]:
    """The kinds of positions, without those that are tried in a `sum` only."""
    return [name for name in part_names(Positions) if name not in ("relative_bias", "disentangled")]


def model(positions: str, mask: str, norm: str, block: object, ffn: object, embeddings: str = "plain") -> Model:
    table = {
        "width": 12, "depth": 3, "heads": 3, "intermediate_size": 10, "vocab_size": 40, "max_length": 130,
        "type_vocab_size": 2, "positions": part(positions), "mask": part(mask), "norm": norm, "block": block,
        "ffn": ffn,
        "embeddings": part(embeddings), "init": {"is": "normal", "std": 0.4},
    }  # fmt: skip
    return build_model(decode(ModelSettings, table), seed=1).double()


def sequences(lengths: tuple[int, ...]) -> tuple[list[list[int]], list[list[int]]]:
    source = torch.Generator().manual_seed(5)
    ids = [torch.randint(0, 40, (n,), generator=source).tolist() for n in lengths]
    return ids, [torch.randint(0, 2, (n,), generator=source).tolist() for n in lengths]


def gradients(net: Model) -> dict[str, Tensor]:
    grads = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    return grads


@pytest.mark.parametrize(
    "parts",
    list(itertools.product(alone(), part_names(Mask), part_names(Norm), simple(Block), simple(FFN))),
    ids="-".join,
)
def test_packed_equals_alone(parts: tuple[str, str, str, str, str]) -> None:
    net = model(*parts)
    check(net, LENGTHS)


@pytest.mark.parametrize("mask", part_names(Mask))
@pytest.mark.parametrize("positions", part_names(Positions))
def test_packed_equals_alone_where_kinds_alternate(positions: str, mask: str) -> None:
    check(model(positions, mask, "layer", COMPOSITE["block"], COMPOSITE["ffn"]), LENGTHS)


@pytest.mark.parametrize("name", part_names(Embeddings))
def test_packed_equals_alone_with_embeddings(name: str) -> None:
    check(model("learned", "document", "layer", "pre", "mlp", name), LENGTHS)


@pytest.mark.parametrize("mask", part_names(Mask))
@pytest.mark.parametrize("positions", ["learned", "rotary", "alibi", "relative_bias", "disentangled"])
def test_awkward_lengths_in_any_order(positions: str, mask: str) -> None:
    check(model(positions, mask, "layer", "pre", "glu"), (1, 129, 2, 63, 63, 64, 1))


def check(net: Model, lengths: tuple[int, ...]) -> None:
    ids, segments = sequences(lengths)
    weights = torch.randn(sum(lengths), net.settings.width, dtype=torch.float64)
    output = net(Batch.from_sequences(ids, segments), keep_layers=True)
    (output.hidden * weights).sum().backward()
    packed_gradients = gradients(net)

    singles = [net(Batch.from_sequences([i], [s]), keep_layers=True) for i, s in zip(ids, segments, strict=True)]
    alone = torch.cat([single.hidden for single in singles])
    (alone * weights).sum().backward()
    torch.testing.assert_close(output.hidden, alone, rtol=1e-9, atol=1e-10)
    for depth, layer in enumerate(output.layers):
        torch.testing.assert_close(layer, torch.cat([s.layers[depth] for s in singles]), rtol=1e-9, atol=1e-10)
    alone_gradients = gradients(net)
    assert packed_gradients.keys() == alone_gradients.keys()
    for name, grad in alone_gradients.items():
        torch.testing.assert_close(
            packed_gradients[name], grad, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("positions", part_names(Positions))
def test_documents_are_independent(positions: str) -> None:
    net = model(positions, "alternating", "layer", "pre", "glu").float()
    ids, segments = sequences(LENGTHS)
    first = net(Batch.from_sequences(ids, segments)).hidden
    changed = [list(reversed(s)) if i == 2 else s for i, s in enumerate(ids)]
    second = net(Batch.from_sequences(changed, segments)).hidden
    start = sum(LENGTHS[:2])
    inside = torch.zeros(len(first), dtype=torch.bool)
    inside[start : start + LENGTHS[2]] = True
    assert torch.equal(first[~inside], second[~inside]), "bit for bit"
    assert not torch.equal(first[inside], second[inside])


def test_no_gradient_reaches_another_document() -> None:
    net = model("learned", "document", "layer", "post", "mlp")
    ids = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13]]
    hidden = net(Batch.from_sequences(ids)).hidden
    hidden[5:10].square().sum().backward()
    touched = net.encoder.token_embeddings.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert touched == ids[1]


def test_equal_runs_are_equal() -> None:
    net = model("rotary", "alternating", "layer", "pre", "glu").float()
    ids, segments = sequences(LENGTHS)
    runs = []
    for _ in range(2):
        hidden = net(Batch.from_sequences(ids, segments)).hidden
        hidden.square().sum().backward()
        runs.append((hidden, gradients(net)))
    assert torch.equal(runs[0][0], runs[1][0])
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])


@pytest.mark.parametrize("positions", part_names(Positions))
def test_low_precision_is_close(positions: str) -> None:
    net = model(positions, "alternating", "layer", "pre", "glu").float()
    batch = Batch.from_sequences(*sequences(LENGTHS))
    exact = net(batch).hidden
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = net(batch).hidden
    near.float().square().sum().backward()
    assert all(torch.isfinite(grad).all() for grad in gradients(net).values())
    assert (near - exact).norm() < 0.03 * exact.norm()
