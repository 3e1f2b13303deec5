"""Checks of corruptions, each over random batches at several settings of the rates."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from encodery.base.schedule import Schedule
from encodery.base.settings import decode, encode
from encodery.corrupt import IGNORE_INDEX, CorruptedBatch, Corruption, Vocabulary

VOCAB_SIZE, USED_SIZE, NUM_SPECIAL, MASK_ID = 256, 240, 8, 4
RATE = 0.25
PREDICT_RATES = (None, 0.1, 0.45)
SEEDS = range(20)


def example(seed: int) -> tuple[Tensor, Tensor, Vocabulary, torch.Generator]:
    """Return ids (T,), cu_seqlens (13,), a vocabulary and a generator: random lengths from 0 to 39, special tokens
    anywhere, words that begin at random."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 40, (12,), generator=generator)
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).to(torch.int32)
    ids = torch.randint(0, USED_SIZE, (int(lengths.sum()),), generator=generator)
    special = torch.arange(VOCAB_SIZE) < NUM_SPECIAL
    word_start = torch.rand(VOCAB_SIZE, generator=generator) < 0.6
    return ids, cu_seqlens, Vocabulary(MASK_ID, special, USED_SIZE, word_start), generator


def variants(part: Corruption) -> Iterator[Corruption]:
    """Return the part with predicted tokens fewer than, as many as and more than the corrupted ones."""
    for predict_rate, fixed in itertools.product(PREDICT_RATES, (False, True)):
        schedule = None if predict_rate is None else Schedule.parse(predict_rate)
        yield dataclasses.replace(part, rate=Schedule.parse(RATE), predict_rate=schedule, fixed_predictions=fixed)


def results(part: Corruption) -> Iterator[tuple[Corruption, Tensor, CorruptedBatch, Tensor]]:
    """Apply every variant to every example: (variant, the original ids (T·copies,), result, which are special)."""
    for variant, seed in itertools.product(variants(part), SEEDS):
        ids, cu_seqlens, vocabulary, generator = example(seed)
        result = variant.apply(ids, cu_seqlens, vocabulary, generator, 0.5)
        original = ids.repeat(result.copies)
        yield variant, original, result, vocabulary.special[original]


def check_settings_round_trip(part: Corruption) -> None:
    """The part is what its settings decode to."""
    assert decode(Corruption, encode(part)) == part


def check_input_is_not_modified(part: Corruption) -> None:
    """`apply` does not write to its arguments."""
    for variant in variants(part):
        ids, cu_seqlens, vocabulary, generator = example(0)
        before = ids.clone(), cu_seqlens.clone()
        variant.apply(ids, cu_seqlens, vocabulary, generator, 0.5)
        assert torch.equal(ids, before[0]), "apply changed ids"
        assert torch.equal(cu_seqlens, before[1]), "apply changed cu_seqlens"


def check_reproducible(part: Corruption) -> None:
    """Equal generators give equal results."""
    for variant in variants(part):
        ids, cu_seqlens, vocabulary, _ = example(0)
        first, second = (
            variant.apply(ids, cu_seqlens, vocabulary, torch.Generator().manual_seed(1), 0.5) for _ in range(2)
        )
        assert torch.equal(first.ids, second.ids)
        assert torch.equal(first.masked_positions, second.masked_positions)


def check_shapes_and_types(part: Corruption) -> None:
    """Ids, positions and labels are int64, `cu_seqlens` is int32 and ends at the last token, positions ascend."""
    for _, original, result, _ in results(part):
        assert result.ids.shape == original.shape
        assert result.masked_positions.shape == result.labels.shape
        assert result.ids.dtype == result.masked_positions.dtype == result.labels.dtype == torch.int64
        assert result.cu_seqlens.dtype == torch.int32
        assert result.cu_seqlens[-1] == result.ids.numel()
        assert (result.masked_positions.diff() > 0).all()


def check_special_tokens(part: Corruption) -> None:
    """Special tokens are kept and not predicted, and no special or unused id is put in."""
    for _, original, result, special in results(part):
        assert torch.equal(result.ids[special], original[special]), "a special token was replaced"
        changed = result.ids[result.ids != original]
        assert ((changed == MASK_ID) | (changed >= NUM_SPECIAL)).all(), "a special token other than [MASK] was put in"
        assert (result.ids < USED_SIZE).all(), "an unused id was put in"
        real = result.labels != IGNORE_INDEX
        assert not special[result.masked_positions[real]].any(), "a special token is predicted"


def check_labels(part: Corruption) -> None:
    """Labels are the original ids; only fixed numbers of predictions have spare positions."""
    for variant, original, result, _ in results(part):
        real = result.labels != IGNORE_INDEX
        assert torch.equal(result.labels[real], original[result.masked_positions[real]])
        assert real.all() or variant.fixed_predictions


def check_changed_tokens_are_predicted(part: Corruption) -> None:
    """Without `predict_rate` and fixed numbers, every token that was changed is predicted."""
    for variant, original, result, _ in results(part):
        if variant.predict_rate is None and not variant.fixed_predictions:
            changed = (result.ids != original).nonzero().squeeze(1)
            assert torch.isin(changed, result.masked_positions).all()
