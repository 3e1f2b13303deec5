"""Checks of embedding layers, each in a model with segments and in one without. Shapes: V vocabulary, E embedding size,
T tokens, H width."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from encodery.base.settings import decode, encode
from encodery.model.embeddings import Embeddings, EmbeddingsModule
from encodery.model.init.normal import NormalInit
from encodery.model.shape import Shape

SHAPE = Shape(
    vocab_size=30,
    width=12,
    depth=1,
    heads=3,
    head_size=4,
    intermediate_size=8,
    max_length=40,
    type_vocab_size=2,
    embedding_size=12,
)
IDS, SEGMENT = torch.tensor([4, 9, 4, 4]), torch.tensor([0, 0, 0, 1])


def examples(part: Embeddings) -> Iterator[tuple[EmbeddingsModule, Shape, Tensor | None]]:
    """Yield a module with random weights, its shape, and the segments of `IDS`: without segments, then with two."""
    for segments in (0, 2):
        shape = dataclasses.replace(SHAPE, embedding_size=part.size(SHAPE.width), type_vocab_size=segments)
        module = part.build(shape)
        NormalInit(std=1.0).apply(module, shape, torch.Generator().manual_seed(0))
        yield module, shape, SEGMENT if segments else None


def check_settings_round_trip(part: Embeddings) -> None:
    """The part is what its settings decode to."""
    assert decode(Embeddings, encode(part)) == part


def check_shapes(part: Embeddings) -> None:
    """The token embeddings are (V, E), the embedded tokens (T, E), and `widen` gives (T, H)."""
    for module, shape, segment in examples(part):
        assert module.token_embeddings.shape == (shape.vocab_size, shape.embedding_size)
        x = module(IDS, segment)
        assert x.shape == (4, shape.embedding_size)
        assert module.widen(x).shape == (4, shape.width)


def check_equal_tokens_have_equal_vectors(part: Embeddings) -> None:
    """A token's vector depends on the token and its segment only."""
    for module, _, segment in examples(part):
        x = module(IDS, segment)
        assert torch.equal(x[0], x[2]), "a token's vector depends on its place"
        assert not torch.equal(x[0], x[1]), "two tokens have the same vector"
        assert torch.equal(x[0], x[3]) == (segment is None), "the segment does not change the vector"


def check_no_segments_are_segment_zero(part: Embeddings) -> None:
    """Without segments all tokens are in segment 0."""
    for module, _, segment in examples(part):
        assert torch.equal(module(IDS, None)[:3], module(IDS, segment)[:3])


def check_gradient_reaches_the_tokens_of_the_batch(part: Embeddings) -> None:
    """The table `word.weight` gets a gradient at the tokens that occur, and nowhere else."""
    for module, _, segment in examples(part):
        torch.autograd.backward(module.widen(module(IDS, segment))[:2].sum())
        grad = dict(module.named_parameters())["word.weight"].grad
        assert grad is not None, "word.weight has no gradient"
        assert grad.abs().sum(1).nonzero()[:, 0].tolist() == [4, 9]


def check_token_embeddings_are_the_table(part: Embeddings) -> None:
    """`token_embeddings` is the stored parameter `word.weight`, which a tied decoder shares."""
    for module, _, _ in examples(part):
        assert module.token_embeddings is dict(module.named_parameters())["word.weight"]
