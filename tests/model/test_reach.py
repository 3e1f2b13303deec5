"""The reach of attention: combination, simplification, counts, and batches that narrow it."""

from __future__ import annotations

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.model.network import Model, build_model
from encodery.model.reach import Reach
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

REACHES = [
    Reach(),
    Reach(3, 3),
    Reach(9, 2),
    Reach(right=0),
    Reach(left=4),
    Reach(5, 0, sinks=3),
    Reach(5, 1, sinks=11),
    Reach(right=0, prefix=6),
    Reach(4, 2, sinks=2, prefix=9),
    Reach(2, 2, global_positions=(0, 15)),
]


def dense(reach: Reach, length: int) -> torch.Tensor:
    index = torch.arange(length)
    return reach.allows(index[:, None], index)


@pytest.mark.parametrize("length", [1, 2, 5, 12, 40])
@pytest.mark.parametrize("reach", REACHES)
def test_within_a_length_nothing_changes(reach: Reach, length: int) -> None:
    assert torch.equal(dense(reach.within(length), length), dense(reach, length))


@pytest.mark.parametrize("length", [1, 2, 5, 12, 40])
@pytest.mark.parametrize("reach", [reach for reach in REACHES if not reach.global_positions])
def test_the_mean_number_of_attended_tokens(reach: Reach, length: int) -> None:
    expected = float(dense(reach, length).sum()) / length
    assert reach.mean_attended(length) == pytest.approx(expected, abs=1e-9)


def test_the_mean_number_with_global_positions_is_close() -> None:
    reach = Reach(2, 2, global_positions=(0, 15))
    assert reach.mean_attended(40) == pytest.approx(float(dense(reach, 40).sum()) / 40, rel=0.02)


PREFIX, SINKS, GLOBAL = Reach(right=0, prefix=6), Reach(5, 0, sinks=3), Reach(2, 2, global_positions=(0,))
BANDS = [Reach(), Reach(3, 3), Reach(9, 2), Reach(right=0), Reach(left=4)]


@pytest.mark.parametrize(
    ("one", "other"),
    [(a, b) for a in BANDS for b in BANDS]
    + [(PREFIX, PREFIX), (GLOBAL, Reach()), (GLOBAL, GLOBAL), (SINKS, Reach(right=0)), (SINKS, Reach(right=3))]
    + [(PREFIX, Reach(left=4)), (PREFIX, Reach(7, None, sinks=2))],
)
def test_an_intersection_is_exact(one: Reach, other: Reach) -> None:
    for both in (one.intersect(other), other.intersect(one)):
        assert torch.equal(dense(both, 20), dense(one, 20) & dense(other, 20))


@pytest.mark.parametrize(("one", "other"), [(GLOBAL, Reach(right=0)), (SINKS, Reach(3, 0)), (PREFIX, Reach(right=0))])
def test_an_intersection_that_no_reach_expresses_is_refused(one: Reach, other: Reach) -> None:
    for a, b in ((one, other), (other, one)):
        with pytest.raises(SettingsError, match="cannot be combined"):
            a.intersect(b)


@pytest.mark.parametrize("settings", [{"left": -1}, {"right": -2}, {"sinks": -1}, {"global_positions": (-1,)}])
def test_negative_numbers_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="at least 0"):
        Reach(**settings)


def small(**settings: object) -> Model:
    table = {"width": 16, "heads": 2, "depth": 2, "vocab_size": 30, "init": {"is": "normal", "std": 0.3}}
    return build_model(decode(ModelSettings, table | settings)).eval()


def with_reach(sequences: list[list[int]], reach: Reach = Reach(), prefix: tuple[int, ...] | None = None) -> Batch:
    batch = Batch.from_sequences(sequences)
    lengths = None if prefix is None else torch.tensor(prefix)
    return Batch(batch.ids, batch.cu_seqlens, batch.max_seqlen, reach=reach, prefix=lengths)


@pytest.mark.parametrize("mask", ["document", {"is": "window", "size": 2}])
def test_one_model_is_bidirectional_in_one_batch_and_causal_in_another(mask: object) -> None:
    model = small(mask=mask)
    first, changed = [[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 9]]
    whole = [model(with_reach(ids)).hidden[:4] for ids in (first, changed)]
    causal = [model(with_reach(ids, Reach(right=0))).hidden[:4] for ids in (first, changed)]
    assert not torch.allclose(*whole)
    assert torch.equal(*causal)


def test_a_prefix_for_each_sequence_of_a_batch() -> None:
    """A sequence that is all prefix is bidirectional, one without a prefix is causal, and both share a batch."""
    model = small()
    mixed = model(with_reach([[1, 2, 3, 4], [5, 6, 7]], Reach(right=0), (4, 0))).hidden
    torch.testing.assert_close(mixed[:4], model(with_reach([[1, 2, 3, 4]])).hidden)
    torch.testing.assert_close(mixed[4:], model(with_reach([[5, 6, 7]], Reach(right=0))).hidden)
    partly = model(with_reach([[5, 6, 7]], Reach(right=0), (2,))).hidden
    assert not torch.allclose(partly[0], mixed[4])


def test_other_ids_and_devices_keep_the_reach() -> None:
    batch = with_reach([[1, 2], [3]], Reach(right=0), (1, 0))
    for copy in (batch.with_ids(batch.ids + 1), batch.to("cpu")):
        assert copy.layout.reach == Reach(right=0)
        assert copy.layout.prefix.tolist() == [1, 0]
