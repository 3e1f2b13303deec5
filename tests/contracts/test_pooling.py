"""What every pooling and every finish step promises, over whatever parts lie in their folders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from encodery.base.parts import find, names
from encodery.base.settings import decode, encode
from encodery.embed.finish import Finish
from encodery.embed.pooling import Pooling
from encodery.model.shape import Batch, Output, Shape

WIDTH = 16
LENGTHS = (1, 2, 3, 7, 7, 30)
SHAPE = Shape(
    vocab=64, width=WIDTH, depth=2, heads=2, head_size=8, inner=32, max_length=32, segments=0, embedding=WIDTH
)
VECTORS = (np.random.default_rng(0).standard_normal((50, WIDTH)) * np.linspace(0.1, 3, WIDTH) + 5).astype(np.float32)


def pooled(part: Pooling, lengths: tuple[int, ...], hidden: torch.Tensor) -> torch.Tensor:
    batch = Batch.from_sequences([[1] * length for length in lengths])
    output = Output(hidden, (hidden, hidden, hidden))
    found: torch.Tensor = part.build(SHAPE).eval()(output, batch)
    return found


@pytest.mark.parametrize("name", names(Pooling))
def test_sequences_are_pooled_apart_from_each_other(name: str) -> None:
    part = find(Pooling, name)()
    hidden = torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(0))
    together = pooled(part, LENGTHS, hidden)
    assert together.shape == (len(LENGTHS), WIDTH)
    assert together.dtype == torch.float32
    alone = [pooled(part, (len(rows),), rows)[0] for rows in hidden.split(LENGTHS)]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize("name", names(Pooling))
def test_half_precision_is_pooled_in_single_and_settings_round_trip(name: str) -> None:
    part = find(Pooling, name)()
    hidden = torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert pooled(part, LENGTHS, hidden).dtype == torch.float32
    assert decode(Pooling, encode(part)) == part


@pytest.mark.parametrize("name", names(Finish))
def test_rows_are_finished_apart_from_each_other(name: str) -> None:
    part = find(Finish, name)()
    state = part.fit(VECTORS)
    finished = part.apply(VECTORS, state)
    assert finished.shape == (len(VECTORS), part.width(WIDTH))
    assert finished.dtype == np.float32
    assert np.isfinite(finished).all()
    np.testing.assert_allclose(part.apply(VECTORS[7:8], state)[0], finished[7], atol=1e-4)
    assert all(isinstance(array, np.ndarray) for array in state.values())
    assert decode(Finish, encode(part)) == part


@pytest.mark.parametrize("name", names(Finish))
@pytest.mark.parametrize("count", [1, 2])
def test_a_tiny_sample_and_zero_vectors_give_finite_numbers(name: str, count: int) -> None:
    part = find(Finish, name)()
    state = part.fit(VECTORS[:count])
    assert np.isfinite(part.apply(np.zeros((3, WIDTH), np.float32), state)).all()
