"""Checks of the losses of embeddings, each on random embeddings of a batch of examples.

Shapes: B examples, C columns, K dimensions.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from encodery.base.settings import decode, encode
from encodery.embed.loss_inputs import TokenInputs, VectorInputs
from encodery.embed.losses import Loss
from encodery.embed.losses.infonce import InfoNCE
from encodery.objectives import normalised_loss, step_metrics, sum_counts

B, K, DEPTH = 12, 64, 4
STEPS, LR = 30, 0.05
TOLERANCE = 1e-4


def example_part(kind: type[Loss]) -> Loss:
    """Return the part at its defaults; a wrapper gets InfoNCE inside."""
    wraps = any(field.name == "loss" for field in dataclasses.fields(kind))  # type: ignore[arg-type]
    return kind(loss=InfoNCE()) if wraps else kind()  # type: ignore[call-arg]


def num_columns(loss: Loss) -> int:
    """Return C of the examples: three, as far as the loss allows."""
    minimum, maximum = loss.column_range
    return min(max(minimum, 3), maximum or 3)


def example(loss: Loss, seed: int = 0) -> VectorInputs:
    """Return inputs with everything that the loss declares to need; all texts differ."""
    generator = torch.Generator().manual_seed(seed)
    columns = num_columns(loss)

    def vectors() -> tuple[Tensor, ...]:
        anchor = torch.randn(B, K, generator=generator)
        return tuple(anchor + 2 * torch.randn(B, K, generator=generator) for _ in range(columns))

    targets = {
        "none": None,
        "score": torch.linspace(0, 1, B)[torch.randperm(B, generator=generator)],
        "scores": torch.randn(B, columns - 1, generator=generator),
        "label": torch.arange(B) % 4,
    }
    target, texts = targets[loss.target_kind], torch.arange(columns * B).view(columns, B)
    guide = VectorInputs(vectors()) if loss.needs_guide else None
    layers = tuple(VectorInputs(vectors(), target, texts, guide) for _ in loss.sample_layers(DEPTH, seed))
    return VectorInputs(vectors(), target, texts, guide, layers)


def select(inputs: VectorInputs, examples: Tensor) -> VectorInputs:
    """Return the inputs with these examples only, in this order."""
    return VectorInputs(
        tuple(vector[examples] for vector in inputs.vectors),
        None if inputs.target is None else inputs.target[examples],
        None if inputs.texts is None else inputs.texts[:, examples],
        None if inputs.guide is None else select(inputs.guide, examples),
        tuple(select(layer, examples) for layer in inputs.layers),
    )


def leaves(inputs: VectorInputs) -> list[Tensor]:
    """Return the embeddings of all layers, with gradients switched on."""
    tensors = [*inputs.vectors, *(vector for layer in inputs.layers for vector in layer.vectors)]
    return [tensor.requires_grad_() for tensor in tensors]


def check_settings_round_trip(loss: Loss) -> None:
    """The loss is what its settings decode to."""
    assert decode(Loss, encode(loss)) == loss


def check_terms_agree_with_counts(loss: Loss) -> None:
    """The learned terms have the counts that are known before there are embeddings; totals are scalars."""
    inputs = example(loss)
    terms, counts = loss.terms(inputs), loss.counts(num_columns(loss), B, inputs.target)
    learned = {name: int(term.count) for name, term in terms.items() if term.weight}
    assert learned == {name: int(count) for name, count in counts.items()}
    assert all(term.total.ndim == 0 for term in terms.values()), "a total is not a scalar"
    whole, reported = float(normalised_loss(terms, sum_counts([counts]))), step_metrics([terms])["loss"]
    assert abs(whole - reported) <= TOLERANCE * max(abs(reported), 1), (whole, reported)


def check_every_embedding_gets_a_gradient(loss: Loss) -> None:
    """The embeddings of every column and every sampled layer get a finite gradient that is not zero."""
    inputs = example(loss)
    tensors = leaves(inputs)
    counts = loss.counts(num_columns(loss), B, inputs.target)
    normalised_loss(loss.terms(inputs), counts).backward()  # type: ignore[no-untyped-call]
    for number, tensor in enumerate(tensors):
        assert tensor.grad is not None, f"embedding {number} has no gradient"
        assert torch.isfinite(tensor.grad).all(), f"the gradient of embedding {number} is not finite"
        assert tensor.grad.abs().sum() > 0, f"the gradient of embedding {number} is zero"


def check_descent_lowers_it(loss: Loss) -> None:
    """Gradient descent on the embeddings lowers the loss."""
    inputs = example(loss)
    optimizer = torch.optim.Adam(leaves(inputs), lr=LR)
    counts = loss.counts(num_columns(loss), B, inputs.target)
    values = []
    for _ in range(STEPS):
        value = normalised_loss(loss.terms(inputs), counts)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.8 * values[0], (values[0], values[-1])


def check_order_of_examples_does_not_matter(loss: Loss) -> None:
    """A permutation of the examples changes no metric."""
    inputs = example(loss)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(5))
    before, after = step_metrics([loss.terms(inputs)]), step_metrics([loss.terms(select(inputs, order))])
    for name, value in before.items():
        assert abs(after[name] - value) <= TOLERANCE * max(abs(value), 1), (name, value, after[name])


def check_in_batch_is_true(loss: Loss) -> None:
    """Two halves of a batch give the loss of the whole batch exactly if the loss is not `in_batch`."""
    inputs = example(loss)
    halves = [loss.terms(select(inputs, part)) for part in (torch.arange(5), torch.arange(5, B))]
    whole, divided = step_metrics([loss.terms(inputs)])["loss"], step_metrics(halves)["loss"]
    equal = abs(divided - whole) <= TOLERANCE * max(abs(whole), 1)
    assert equal is not loss.in_batch, f"in_batch = {loss.in_batch}, but whole {whole} and halves {divided}"


def check_needs_vectors_is_true(loss: Loss) -> None:
    """A loss that does not declare `needs_vectors` gives for texts of one token what it gives for single vectors."""
    vectors = tuple(torch.nn.functional.normalize(vector, dim=1) for vector in example(loss).vectors)
    single = dataclasses.replace(example(loss), vectors=vectors)
    owners = (torch.arange(B),) * len(vectors)
    tokens = TokenInputs(vectors, single.target, single.texts, single.guide, owners=owners, num_examples=B)
    expected = step_metrics([loss.terms(single)])["loss"]
    actual = step_metrics([loss.terms(single if loss.needs_vectors else tokens)])["loss"]
    assert abs(actual - expected) <= TOLERANCE * max(abs(expected), 1), (expected, actual)
