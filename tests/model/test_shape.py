"""The packed batch, its layout, and conversion between padded and packed."""

from __future__ import annotations

import pytest
import torch

from encodery.base.errors import InputError
from encodery.model.ops.attention._tiles import MAX_SCORES, MIN_LENGTH_RATIO, attention_tiles
from encodery.model.packing import pack, unpack
from encodery.model.shape import Batch


def test_from_sequences() -> None:
    batch = Batch.from_sequences([[1, 2, 3], [4], [5, 6]], [[0, 0, 1], [0], [1, 1]])
    assert batch.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.ids.dtype == torch.int64
    assert batch.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.segment.tolist() == [0, 0, 1, 0, 1, 1]
    assert (batch.max_seqlen, batch.tokens, len(batch)) == (3, 6, 3)
    with pytest.raises(InputError, match="at least one token"):
        Batch.from_sequences([[1], []])
    with pytest.raises(InputError, match="at least one"):
        Batch.from_sequences([])
    with pytest.raises(InputError, match="lengths"):
        Batch.from_sequences([[1, 2]], [[0]])


def test_layout() -> None:
    layout = Batch.from_sequences([[0] * n for n in (3, 3, 1, 2, 2)]).layout
    assert layout.lengths == (3, 3, 1, 2, 2)
    assert layout.positions.tolist() == [0, 1, 2, 0, 1, 2, 0, 0, 1, 0, 1]
    assert layout.sequence_ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3, 4, 4]
    assert [tuple(group) for group in layout.groups] == [(0, 2, 3), (6, 1, 1), (7, 2, 2)]


def test_other_ids_share_the_layout() -> None:
    batch = Batch.from_sequences([[1, 2], [3]])
    masked = batch.with_ids(torch.tensor([1, 9, 3]), masked_positions=torch.tensor([1]))
    again = masked.with_ids(masked.ids, labels=torch.tensor([2]))
    assert masked.layout is batch.layout
    assert batch.ids.tolist() == [1, 2, 3]
    assert not batch.extra
    assert sorted(again.extra) == ["labels", "masked_positions"]
    moved = again.to("meta")
    assert moved.ids.is_meta
    assert moved.extra["masked_positions"].is_meta
    assert moved.max_seqlen == 2


def test_pack_and_unpack() -> None:
    ids = torch.tensor([[1, 2, 3, 0], [0, 0, 4, 5], [6, 0, 0, 0]])
    mask = (ids > 0).long()
    batch = pack(ids, mask, segment=torch.ones_like(ids))
    assert batch.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.cu_seqlens.tolist() == [0, 3, 5, 6]
    assert batch.segment.tolist() == [1] * 6
    assert unpack(batch.ids, batch.layout, fill=-7).tolist() == [[1, 2, 3], [4, 5, -7], [6, -7, -7]]
    wide = unpack(torch.ones(6, 2), batch.layout)
    assert wide.shape == (3, 3, 2)
    assert wide.sum() == 12
    with pytest.raises(InputError, match="at least one token"):
        pack(ids, torch.zeros_like(ids))
    with pytest.raises(InputError, match="same shape"):
        pack(ids, mask[:, :2])


@pytest.mark.parametrize("heads", [1, 12])
def test_tiles_cover_the_batch_and_stay_small(heads: int) -> None:
    lengths = [512, 300, 299, *[128] * 40, 127, 100, 99, 64, 8, 8, 8, 7, 1, 1]
    all_tiles = list(attention_tiles(lengths, heads))
    assert [length for tile in all_tiles for length in tile.lengths] == lengths
    assert [tile.tokens.start for tile in all_tiles[1:]] == [tile.tokens.stop for tile in all_tiles[:-1]]
    for tile in all_tiles:
        assert tile.count == 1 or tile.count * heads * tile.length**2 <= MAX_SCORES
        assert min(tile.lengths) >= MIN_LENGTH_RATIO * tile.length
