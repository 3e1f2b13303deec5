"""Contract of embeddings, for all parts in the folder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.model.embeddings import Embeddings
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


@pytest.mark.parametrize("segments", [0, 2])
@pytest.mark.parametrize("name", part_names(Embeddings))
def test_what_every_embedding_does(name: str, segments: int) -> None:
    part = find_part(Embeddings, name)()
    assert decode(Embeddings, encode(part)) == part
    shape = replace(SHAPE, embedding_size=part.size(12), type_vocab_size=segments)
    module = part.build(shape)
    NormalInit(std=1.0).apply(module, shape, torch.Generator().manual_seed(0))
    assert module.token_embeddings.shape == (30, shape.embedding_size)
    ids, segment = torch.tensor([4, 9, 4, 4]), torch.tensor([0, 0, 0, 1])

    x = module(ids, segment if segments else None)
    assert x.shape == (4, shape.embedding_size)
    assert module.widen(x).shape == (4, 12)
    assert torch.equal(x[0], x[2]), "a token's vector depends on the token alone"
    assert torch.equal(x[0], x[3]) == (segments == 0)
    assert torch.equal(module(ids, None)[:3], x[:3]), "without segments all tokens are of segment 0"
    module.widen(x)[:2].sum().backward()
    grad = dict(module.named_parameters())["word.weight"].grad
    assert grad.abs().sum(1).nonzero()[:, 0].tolist() == [4, 9]
