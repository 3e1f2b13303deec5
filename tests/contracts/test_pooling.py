"""What every pooling promises, over whatever parts lie in the folder."""

from __future__ import annotations

import pytest
import torch

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.encoders.pooling import Pooling
from encodery.model.shape import Batch, Output, Shape

WIDTH = 16
LENGTHS = (1, 2, 3, 7, 7, 30)
SHAPE = Shape(
    vocab_size=64,
    width=WIDTH,
    depth=2,
    heads=2,
    head_size=8,
    intermediate_size=32,
    max_length=32,
    type_vocab_size=0,
    embedding_size=WIDTH,
)


def pooled(part: Pooling, lengths: tuple[int, ...], hidden: torch.Tensor) -> torch.Tensor:
    batch = Batch.from_sequences([[1] * length for length in lengths])
    output = Output(hidden, (hidden, hidden, hidden))
    found: torch.Tensor = part.build(SHAPE).eval()(output, batch)
    return found


@pytest.mark.parametrize("name", part_names(Pooling))
def test_sequences_are_pooled_apart_from_each_other(name: str) -> None:
    part = find_part(Pooling, name)()
    hidden = torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(0))
    together = pooled(part, LENGTHS, hidden)
    assert together.shape == (len(LENGTHS), WIDTH)
    assert together.dtype == torch.float32
    alone = [pooled(part, (len(rows),), rows)[0] for rows in hidden.split(LENGTHS)]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize("name", part_names(Pooling))
def test_half_precision_is_pooled_in_single_and_settings_round_trip(name: str) -> None:
    part = find_part(Pooling, name)()
    hidden = torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert pooled(part, LENGTHS, hidden).dtype == torch.float32
    assert decode(Pooling, encode(part)) == part
