"""Contract of the corruptions: whatever parts lie in the folder."""

from __future__ import annotations

import pytest
import torch

from encodery.base.parts import find_part, part_names
from encodery.base.schedule import Schedule
from encodery.base.settings import decode, encode
from encodery.corrupt import IGNORE_INDEX, Corruption, Vocabulary

V, USED, SPECIALS = 256, 240, 8


def setting(seed: int) -> tuple[torch.Tensor, torch.Tensor, Vocabulary, torch.Generator]:
    """Random lengths down to empty, specials at the ends and inside."""
    source = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 40, (12,), generator=source)
    cu = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).to(torch.int32)
    ids = torch.randint(0, USED, (int(lengths.sum()),), generator=source)
    special = torch.arange(V) < SPECIALS
    words = Vocabulary(4, special, USED, torch.rand(V, generator=source) < 0.6)
    return ids, cu, words, source


@pytest.mark.parametrize("fixed_predictions", [False, True])
@pytest.mark.parametrize("predicted", [None, 0.1, 0.45])
@pytest.mark.parametrize("name", part_names(Corruption))
def test_what_every_corruption_promises(name: str, predicted: float | None, fixed_predictions: bool) -> None:
    chosen = None if predicted is None else Schedule.parse(predicted)
    part = find_part(Corruption, name)(
        rate=Schedule.parse(0.25), predict_rate=chosen, fixed_predictions=fixed_predictions
    )
    for seed in range(20):
        ids, cu, words, source = setting(seed)
        before = ids.clone()
        done = part.apply(ids, cu, words, source, 0.5)
        original = ids.repeat(done.copies)
        assert torch.equal(ids, before), "the batch given is not written to"
        assert done.ids.shape == original.shape
        assert done.ids.dtype == done.masked_positions.dtype == done.labels.dtype == torch.int64
        assert done.cu_seqlens.dtype == torch.int32
        assert done.cu_seqlens[-1] == done.ids.numel()
        special = words.special[original]
        assert torch.equal(done.ids[special], original[special]), "specials stay"
        changed = done.ids != original
        assert ((done.ids[changed] == 4) | ~words.special[done.ids[changed]]).all(), "no special put in"
        assert (done.ids < USED).all()
        assert (done.masked_positions.diff() > 0).all()
        real = done.labels != IGNORE_INDEX
        assert torch.equal(done.labels[real], original[done.masked_positions][real])
        assert not special[done.masked_positions[real]].any()
        assert real.all() or fixed_predictions
        assert (
            predicted is not None
            or not (set(changed.nonzero()[:, 0].tolist()) - set(done.masked_positions.tolist()))
            or fixed_predictions
        )


@pytest.mark.parametrize("name", part_names(Corruption))
def test_settings_round_trip(name: str) -> None:
    part = find_part(Corruption, name)()
    assert decode(Corruption, encode(part)) == part
