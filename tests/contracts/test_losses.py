"""What every loss of embeddings promises, over whatever parts lie in the folder."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.embed.loss_inputs import VectorInputs
from encodery.embed.losses import Loss
from encodery.embed.losses.infonce import InfoNCE
from encodery.objectives import normalised_loss, step_metrics, sum_counts

B, K = 12, 64


def made(name: str) -> Loss:
    """The part at its defaults; InfoNCE inside where it wraps another."""
    part = find_part(Loss, name)
    wraps = any(field.name == "loss" for field in dataclasses.fields(part))
    return part(loss=InfoNCE()) if wraps else part()


def columns(loss: Loss) -> int:
    least, most = loss.column_range
    return min(max(least, 3), most or 3)


def given(loss: Loss, seed: int = 0, leaves: bool = True) -> VectorInputs:
    source = torch.Generator().manual_seed(seed)

    def vectors() -> tuple[torch.Tensor, ...]:
        anchor = torch.randn(B, K, generator=source)
        drawn = [anchor + 2 * torch.randn(B, K, generator=source) for _ in range(columns(loss))]
        return tuple(vector.requires_grad_(leaves) for vector in drawn)

    target: Any = None
    if loss.target_kind == "score":
        target = torch.linspace(0, 1, B)[torch.randperm(B, generator=source)]
    elif loss.target_kind == "scores":
        target = torch.randn(B, columns(loss) - 1, generator=source)
    elif loss.target_kind == "label":
        target = torch.arange(B) % 4
    texts = torch.arange(columns(loss) * B).view(columns(loss), B)
    guide = VectorInputs(tuple(vector.detach() for vector in vectors())) if loss.needs_guide else None
    layers = tuple(VectorInputs(vectors(), target, texts, guide) for _ in loss.sample_layers(4, seed))
    return VectorInputs(vectors(), target, texts, guide, layers)


@pytest.mark.parametrize("name", part_names(Loss))
def test_terms_agree_with_counts_and_reach_every_vector(name: str) -> None:
    loss = made(name)
    batch = given(loss)
    terms, counts = loss.terms(batch), loss.counts(columns(loss), B, batch.target)
    learned = {name: term for name, term in terms.items() if term.weight}
    assert {name: int(term.count) for name, term in learned.items()} == {name: int(n) for name, n in counts.items()}
    assert all(term.total.ndim == 0 for term in terms.values())
    whole = normalised_loss(terms, sum_counts([counts]))
    assert whole.item() == pytest.approx(step_metrics([terms])["loss"], rel=1e-4)
    whole.backward()
    for vector in [*batch.vectors, *(v for layer in batch.layers for v in layer.vectors)]:
        assert vector.grad is not None
        assert torch.isfinite(vector.grad).all()
        assert vector.grad.abs().sum() > 0


@pytest.mark.parametrize("name", part_names(Loss))
def test_descending_it_lowers_it(name: str) -> None:
    loss = made(name)
    batch = given(loss)
    learned = [*batch.vectors, *(v for layer in batch.layers for v in layer.vectors)]
    optimizer = torch.optim.Adam(learned, lr=0.05)
    counts = loss.counts(columns(loss), B, batch.target)
    values = []
    for _ in range(30):
        value = normalised_loss(loss.terms(batch), counts)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize("name", part_names(Loss))
def test_the_order_of_examples_does_not_matter(name: str) -> None:
    loss = made(name)
    batch, order = given(loss, leaves=False), torch.randperm(B, generator=torch.Generator().manual_seed(5))

    def turned(one: VectorInputs) -> VectorInputs:
        return VectorInputs(
            tuple(vector[order] for vector in one.vectors),
            None if one.target is None else one.target[order],
            None if one.texts is None else one.texts[:, order],
            None if one.guide is None else turned(one.guide),
            tuple(turned(layer) for layer in one.layers),
        )

    before, after = step_metrics([loss.terms(batch)]), step_metrics([loss.terms(turned(batch))])
    assert after == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize("name", part_names(Loss))
def test_examples_that_stand_alone_may_be_split(name: str) -> None:
    """Where examples do not depend on each other, the sums of two halves are those of the whole."""
    loss = made(name)
    if loss.in_batch:
        pytest.skip("its examples are compared with each other")
    batch = given(loss, leaves=False)

    def half(rows: slice) -> VectorInputs:
        target = None if batch.target is None else batch.target[rows]
        return VectorInputs(tuple(vector[rows] for vector in batch.vectors), target)

    parts = [loss.terms(half(slice(0, 5))), loss.terms(half(slice(5, B)))]
    assert step_metrics(parts) == pytest.approx(step_metrics([loss.terms(batch)]), rel=1e-4)


@pytest.mark.parametrize("name", part_names(Loss))
def test_settings_round_trip(name: str) -> None:
    assert decode(Loss, encode(made(name))) == made(name)
