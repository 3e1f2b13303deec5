"""Which tokens are corrupted, how many, how, and which are predicted: counts and statistics with fixed seeds."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule
from encodery.base.settings import decode, encode
from encodery.corrupt import IGNORE_INDEX, CorruptedBatch, Corruption, Vocabulary
from encodery.corrupt.span import SpanMasking
from encodery.corrupt.token import TokenMasking
from encodery.corrupt.word import WholeWordMasking

V, USED, MASK, SPECIALS = 512, 450, 4, 6


def vocabulary() -> Vocabulary:
    """Ids 0..5 are special, 6..449 used, the rest padding; every third id continues a word."""
    special = torch.zeros(V, dtype=torch.bool)
    special[:SPECIALS] = True
    return Vocabulary(MASK, special, USED, torch.arange(V) % 3 != 0)


def packed(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """[CLS]=1 … [SEP]=2 around random ids."""
    ids = torch.randint(SPECIALS, USED, (sum(lengths),), generator=torch.Generator().manual_seed(seed))
    cu = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    ids[cu[:-1].long()] = 1
    ids[cu[1:].long() - 1] = 2
    return ids, cu


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def corrupt(
    part: type[Corruption], lengths: list[int], seed: int = 0, progress: float = 0.0, **settings: Any
) -> CorruptedBatch:
    """Corrupt a batch with [MASK] only, so that the corrupted tokens can be seen."""
    table = {"mask": 1.0, "random": 0.0, "keep": 0.0, **settings}
    corruption = decode(part, table)
    ids, cu = packed(lengths)
    return corruption.apply(ids, cu, vocabulary(), generator(seed), progress)


LENGTHS = [40, 40, 33, 17, 9, 9, 5, 3]
MASKABLE = sum(LENGTHS) - 2 * len(LENGTHS)


@pytest.mark.parametrize("part", [TokenMasking, WholeWordMasking, SpanMasking])
@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4])
def test_mean_count_is_the_rate_of_the_maskable_tokens(part: type[Corruption], rate: float) -> None:
    counts = torch.tensor(
        [float(corrupt(part, LENGTHS, seed, rate=rate).masked_positions.numel()) for seed in range(600)]
    )
    error = counts.std().item() / math.sqrt(counts.numel())
    assert abs(counts.mean().item() - rate * MASKABLE) < 4 * error + 1e-6
    assert counts.std() < (0.6 if part is TokenMasking else 6.0), (
        "the count varies as if each token were drawn by itself"
    )


@pytest.mark.parametrize("part", [TokenMasking, WholeWordMasking, SpanMasking])
def test_every_maskable_position_is_equally_likely(part: type[Corruption]) -> None:
    rounds, rate = 3000, 0.3
    ids, _ = packed(LENGTHS)
    hits = torch.zeros(ids.numel())
    for seed in range(rounds):
        hits[corrupt(part, LENGTHS, seed, rate=rate).masked_positions] += 1
    maskable = ids >= SPECIALS
    assert hits[~maskable].sum() == 0
    sigma = math.sqrt(rate * (1 - rate) / rounds)
    assert (hits[maskable] / rounds - rate).abs().max() < 4.5 * sigma


@pytest.mark.parametrize("part", [TokenMasking, WholeWordMasking, SpanMasking])
def test_positions_ascend_and_labels_are_the_original_ids(part: type[Corruption]) -> None:
    ids, _ = packed(LENGTHS)
    result = corrupt(part, LENGTHS, rate=0.3)
    assert (result.masked_positions.diff() > 0).all()
    assert torch.equal(result.labels, ids[result.masked_positions])
    assert (result.ids[result.masked_positions] == MASK).all()
    untouched = torch.ones_like(ids, dtype=torch.bool)
    untouched[result.masked_positions] = False
    assert torch.equal(result.ids[untouched], ids[untouched])


def test_rate_follows_progress() -> None:
    for progress, rate in ((0.0, 0.3), (0.5, 0.225), (1.0, 0.15)):
        result = corrupt(TokenMasking, [402], progress=progress, rate="0.30 -> 0.15 linear")
        assert result.masked_positions.numel() == round(rate * 400)


def test_fractions_of_mask_random_and_keep() -> None:
    corruption = TokenMasking(rate=Schedule.parse(0.5), mask=0.7, random=0.2, keep=0.1)
    ids, cu = packed([4002] * 5)
    result = corruption.apply(ids, cu, vocabulary(), generator(), 0.0)
    n = result.masked_positions.numel()
    masked = (result.ids[result.masked_positions] == MASK).sum().item() / n
    kept = (result.ids[result.masked_positions] == result.labels).sum().item() / n
    chance = 0.2 / (USED - SPECIALS)
    for fraction, expected in ((masked, 0.7), (kept, 0.1 + chance)):
        assert abs(fraction - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_replacements_are_uniform_over_the_used_ordinary_ids() -> None:
    corruption = TokenMasking(rate=Schedule.parse(1.0), mask=0.0, random=1.0, keep=0.0)
    ids, cu = packed([4002] * 5)
    result = corruption.apply(ids, cu, vocabulary(), generator(), 0.0)
    seen = torch.bincount(result.ids[result.masked_positions], minlength=V)
    assert seen[:SPECIALS].sum() == 0
    assert seen[USED:].sum() == 0
    expected = result.masked_positions.numel() / (USED - SPECIALS)
    chi = ((seen[SPECIALS:USED] - expected) ** 2 / expected).sum().item()
    freedom = USED - SPECIALS - 1
    assert abs(chi - freedom) < 4 * math.sqrt(2 * freedom)


def test_words_are_masked_as_a_whole_and_end_with_the_sequence() -> None:
    ids, _ = packed([60] * 6)
    starts = vocabulary().word_start[ids] | (ids < SPECIALS) | (ids.roll(1) < SPECIALS)
    word = starts.cumsum(0)
    sizes = set()
    for seed in range(30):
        result = corrupt(WholeWordMasking, [60] * 6, seed, rate=0.2)
        masked = result.ids == MASK
        for w in word[masked].unique():
            assert masked[word == w].all(), "a word is masked in part"
            sizes.add(int((word == w).sum()))
    assert {1, 2, 3} <= sizes


def test_span_lengths_are_geometric_and_truncated() -> None:
    span = SpanMasking(rate=Schedule.parse(0.15), whole_words=False)
    ids, _ = packed([20_002])
    breaks = torch.zeros_like(ids, dtype=torch.bool)
    breaks[[0, 1, -1]] = True
    starts = span.unit_starts(ids, breaks, vocabulary(), generator()) | breaks
    lengths = starts.nonzero().squeeze(1).diff()[1:-1]
    assert lengths.max() == 10
    weights = 0.8 ** torch.arange(10)
    expected = weights / weights.sum()
    seen = torch.bincount(lengths, minlength=11)[1:] / lengths.numel()
    sigma = (expected * (1 - expected) / lengths.numel()).sqrt()
    assert ((seen - expected).abs() < 4 * sigma).all()
    assert abs(lengths.double().mean().item() - 3.797) < 0.15


def test_spans_of_words_hold_whole_words_and_never_cross_sequences() -> None:
    lengths = [7] * 300
    ids, _ = packed(lengths)
    maskable = ids >= SPECIALS
    breaks = ~maskable
    breaks[1:] |= ~maskable[:-1]
    starts = SpanMasking().unit_starts(ids, breaks, vocabulary(), generator()) | breaks
    word = vocabulary().word_start[ids] | breaks
    assert not (starts & ~word).any(), "a span begins inside a word"
    assert (starts[word & ~breaks]).float().mean() > 0.15, "runs are not divided into spans"
    first_only = starts & ~breaks
    assert first_only.any()
    assert first_only.view(300, 7)[:, 2:6].any(0).all(), "spans cannot begin at some position"


def test_spans_are_drawn_independently_in_every_sequence() -> None:
    """The lengths drawn in one run must not shift the spans of the next: first spans have the full distribution."""
    ids, _ = packed([12] * 4000)
    maskable = ids >= SPECIALS
    breaks = ~maskable
    breaks[1:] |= ~maskable[:-1]
    starts = (SpanMasking(whole_words=False).unit_starts(ids, breaks, vocabulary(), generator()) | breaks).view(
        4000, 12
    )
    first = starts[:, 2:].long().argmax(1) + 1
    weights = 0.8 ** torch.arange(10)
    expected = weights / weights.sum()
    seen = torch.bincount(first, minlength=11)[1:] / 4000
    sigma = (expected * (1 - expected) / 4000).sqrt()
    assert ((seen - expected).abs() < 4.5 * sigma).all()


def test_a_span_is_masked_replaced_or_kept_as_a_whole() -> None:
    ids, cu = packed([5000])
    span = SpanMasking(rate=Schedule.parse(1.0), mask=0.5, random=0.0, keep=0.5, whole_words=False)
    result = span.apply(ids, cu, vocabulary(), generator(), 0.0)
    changes = (result.ids[1:-1] == MASK).long().diff().abs().sum().item()
    assert changes < 0.6 * 5000 / 3.8, "the choice was made for each token, not for each span"


def test_a_part_of_the_corrupted_tokens_is_predicted() -> None:
    for part in (TokenMasking, WholeWordMasking, SpanMasking):
        result = corrupt(part, [402] * 3, rate=0.4, predict_rate=0.1)
        assert abs(result.masked_positions.numel() - 120) <= (1 if part is TokenMasking else 12)
        assert (result.ids[result.masked_positions] == MASK).all()
        assert (result.ids == MASK).sum() > 440
        assert result.copies == 1


def test_predictions_above_the_corruption_rate_use_disjoint_copies() -> None:
    ids, _ = packed([402] * 3)
    for part in (TokenMasking, WholeWordMasking, SpanMasking):
        result = corrupt(part, [402] * 3, rate=0.15, predict_rate=0.4)
        assert result.copies == 3
        assert result.ids.numel() == 3 * ids.numel()
        assert result.cu_seqlens.tolist() == [402 * i for i in range(10)]
        masked = (result.ids == MASK).view(3, -1)
        assert masked.sum(0).max() == 1, "a token is masked in two copies"
        assert (masked.sum(1) / 1200 - 0.15).abs().max() < 0.02, "a copy does not have the low rate"
        assert abs(result.masked_positions.numel() - 480) <= (1 if part is TokenMasking else 20)
        assert torch.equal(result.labels, ids.repeat(3)[result.masked_positions])


def test_predictions_of_disjoint_copies_have_the_right_mean() -> None:
    counts = [
        corrupt(WholeWordMasking, LENGTHS, s, rate=0.15, predict_rate=0.4).masked_positions.numel() for s in range(500)
    ]
    error = torch.tensor(counts, dtype=torch.double).std().item() / math.sqrt(500)
    assert abs(sum(counts) / 500 - 0.4 * MASKABLE) < 4 * error


@pytest.mark.parametrize("part", [TokenMasking, WholeWordMasking, SpanMasking])
@pytest.mark.parametrize("more", [{}, {"predict_rate": 0.1}, {"predict_rate": 0.5}])
def test_the_fixed_number_of_predictions_depends_on_the_number_of_tokens_alone(
    part: type[Corruption], more: dict[str, float]
) -> None:
    expected = round(more.get("predict_rate", 0.3) * sum(LENGTHS))
    for seed in range(40):
        result = corrupt(part, LENGTHS, seed, rate=0.3, fixed_predictions=True, **more)
        assert result.masked_positions.numel() == expected
        assert (result.masked_positions.diff() > 0).all()
        assert (result.labels >= SPECIALS).all()
        assert (result.ids[result.masked_positions] == MASK).all()


def test_spare_positions_are_ignored() -> None:
    result = corrupt(TokenMasking, [3, 3, 3, 3], rate=0.5, fixed_predictions=True)
    assert result.masked_positions.numel() == 6
    assert (result.labels == IGNORE_INDEX).sum() == 2
    assert (result.ids == MASK).sum() == 4
    assert result.ids.view(4, 3)[:, [0, 2]].tolist() == [[1, 2]] * 4


def test_equal_seeds_give_equal_results_and_other_seeds_others() -> None:
    for part in (TokenMasking, WholeWordMasking, SpanMasking):
        first, second = (corrupt(part, LENGTHS, 3, mask=0.8, random=0.2) for _ in range(2))
        assert torch.equal(first.ids, second.ids)
        assert torch.equal(first.masked_positions, second.masked_positions)
        assert not torch.equal(first.ids, corrupt(part, LENGTHS, 4, mask=0.8, random=0.2).ids)


def test_no_maskable_token_rate_zero_and_rate_one() -> None:
    for part in (TokenMasking, WholeWordMasking, SpanMasking):
        assert corrupt(part, [2, 2], rate=0.5).masked_positions.numel() == 0
        assert corrupt(part, LENGTHS, rate=0.0).masked_positions.numel() == 0
        assert corrupt(part, LENGTHS, rate=1.0).masked_positions.numel() == MASKABLE
        assert corrupt(part, [1], rate=0.5).ids.numel() == 1
        assert corrupt(part, [], rate=0.5).masked_positions.numel() == 0


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="their sum 1"):
        TokenMasking(mask=0.8, random=0.1, keep=0.2)
    with pytest.raises(SettingsError, match=r"within 0\.\.1"):
        TokenMasking(rate=Schedule.parse("0.5 -> 1.5 linear"))
    with pytest.raises(SettingsError, match="disjoint"):
        TokenMasking(rate=Schedule.parse(0.4), predict_rate=Schedule.parse(0.9))
    with pytest.raises(SettingsError, match="max_length = 0"):
        SpanMasking(max_length=0)
    with pytest.raises(SettingsError, match="corrupt"):
        decode(Corruption, {"is": "token", "rate": "a lot"}, "corrupt")
    with pytest.raises(SettingsError, match="mask id"):
        Vocabulary(V, vocabulary().special, USED, vocabulary().word_start)


def test_settings_round_trip() -> None:
    span = SpanMasking(rate=Schedule.parse("0.3 -> 0.15 linear"), predict_rate=Schedule.parse(0.1))
    assert decode(Corruption, encode(span)) == span


def test_a_batch_takes_less_than_ten_milliseconds() -> None:
    """A generous bound for a shared machine; 8,192 tokens take about 1.5 ms."""
    ids, cu = packed([64] * 128)
    words = vocabulary()
    for part in (TokenMasking, WholeWordMasking, SpanMasking):
        best = math.inf
        for _ in range(20):
            begun = time.perf_counter()
            part().apply(ids, cu, words, generator(), 0.0)
            best = min(best, time.perf_counter() - begun)
        assert best < 0.01
