"""Text infilling: what the encoder reads, what the decoder predicts, and that it learns from the source."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule
from encodery.base.settings import decode
from encodery.corrupt import Vocabulary
from encodery.corrupt.token import TokenMasking
from encodery.model.decoder_settings import DecoderSettings
from encodery.model.network import Model, build_model
from encodery.model.reach import Reach
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.objectives import ObjectiveModule, normalised_loss
from encodery.objectives.infilling import Infilling, merge_masks
from encodery.train.pretrain_settings import PretrainSettings

MASK, SIZE = 4, 24
SETTINGS = ModelSettings(
    width=32,
    depth=2,
    heads=4,
    vocab_size=SIZE,
    max_length=24,
    head=None,
    decoder=DecoderSettings(depth=2, embedding_norm=True),
)


def build(rate: float, seed: int = 0) -> tuple[Model, ObjectiveModule]:
    corruption = TokenMasking(rate=Schedule.parse(rate), mask=1.0, random=0.0, keep=0.0)
    special = torch.arange(SIZE) < 6
    vocabulary = Vocabulary(MASK, special, SIZE, torch.ones(SIZE, dtype=torch.bool))
    return build_model(SETTINGS, seed), Infilling(corruption=corruption).build(SETTINGS, vocabulary)


def texts(count: int, seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    lengths = sorted(torch.randint(3, 7, (count,), generator=draw).tolist())
    return Batch.from_sequences([[1, *torch.randint(6, SIZE, (n,), generator=draw).tolist(), 2] for n in lengths])


def test_a_run_of_masks_becomes_one() -> None:
    ids = [1, MASK, MASK, 9, MASK, 2, MASK, MASK, 8, 2]
    batch = Batch.from_sequences([[0] * 6, [0] * 4])
    source = merge_masks(torch.tensor(ids), batch, MASK)
    assert source.ids.tolist() == [1, MASK, 9, MASK, 2, MASK, 8, 2]
    assert source.cu_seqlens.tolist() == [0, 5, 8]
    assert source.cu_seqlens.dtype == batch.cu_seqlens.dtype


def test_the_source_is_corrupted_and_the_target_is_whole() -> None:
    _, module = build(0.4)
    batch = texts(8, 0)
    prepared = module.prepare(batch, torch.Generator().manual_seed(1), 0.0)
    assert prepared.memory is not None
    assert torch.equal(prepared.ids, batch.ids), "the decoder reads the whole text"
    for target, source in zip(split(batch), split(prepared.memory), strict=True):
        assert [source[0], source[-1]] == [1, 2], "special tokens stay"
        rest = iter(target)
        assert all(i in rest for i in source if i != MASK), "tokens that are kept stay in order"
        assert all(a != MASK or b != MASK for a, b in itertools.pairwise(source))
    positions, labels = prepared.extra["masked_positions"], prepared.extra["labels"]
    assert torch.equal(labels, batch.ids[positions + 1])
    assert len(labels) == batch.tokens - len(batch), "every token but the first of each sequence"
    assert not set(positions.tolist()) & set((batch.cu_seqlens[1:] - 1).tolist())


def split(batch: Batch) -> list[list[int]]:
    return [part.tolist() for part in torch.split(batch.ids, list(batch.layout.lengths))]


def test_without_masks_the_text_is_the_source() -> None:
    _, module = build(0.0)
    batch = texts(4, 0)
    source = module.prepare(batch, torch.Generator().manual_seed(1), 0.0).memory
    assert source is not None
    assert torch.equal(source.ids, batch.ids)


@pytest.mark.slow
def test_it_learns_to_copy_what_it_reads() -> None:
    """Random texts can only be predicted from the source: the loss falls far below that of the unigram baseline."""
    model, module = build(0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(400):
        batch = module.prepare(texts(32, step), torch.Generator().manual_seed(step), 0.0)
        loss = normalised_loss(module(model, batch), module.counts(batch))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    batch = module.prepare(texts(32, 10_000), torch.Generator().manual_seed(0), 0.0)
    with torch.no_grad():
        terms = module(model.eval(), batch)
        assert float(terms["accuracy"].total) / float(terms["accuracy"].count) > 0.9
        assert batch.memory is not None
        other = dataclasses.replace(batch, memory=batch.memory.with_ids(batch.memory.ids.roll(1)))
        wrong = module(model, other)["infilling"]
    assert float(wrong.total) > 2 * float(terms["infilling"].total)


def test_flops_agree_with_counted_ones() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, module = build(0.0)
    batch = module.prepare(Batch.from_sequences([[9] * 16] * 4), torch.Generator().manual_seed(0), 0.0)
    with FlopCounterMode(display=False) as counter:
        assert model.decoder is not None
        model.decoder.lm_head(module.encode(model, batch).hidden, model.encoder)
    # PyTorch does not count its attention kernel with a mask, which the causal layers use.
    causal = 64 * 2 * 4 * 32 * Reach(right=0).mean_attended(16)
    assert module.flops(SETTINGS, 16.0, 0.0) * 64 == pytest.approx(3 * (counter.get_total_flops() + causal))


def test_wrong_combinations_are_refused_when_settings_are_read() -> None:
    def read(**tables: object) -> None:
        decode(PretrainSettings, {"feed": {"max_length": 64}, **tables}, where="test")

    decoder = {"depth": 1}
    read(model={"decoder": decoder}, objective={"is": "infilling"})
    with pytest.raises(SettingsError, match="objective = 'infilling': needs a model with a causal decoder"):
        read(objective={"is": "infilling"})
    with pytest.raises(SettingsError, match="needs a model with a causal decoder"):
        read(model={"decoder": {**decoder, "memory": False}}, objective={"is": "infilling"})
    with pytest.raises(SettingsError, match="objective = 'mlm': does not train a decoder"):
        read(model={"decoder": decoder})
    with pytest.raises(SettingsError, match="predict_rate: has no meaning here"):
        read(
            model={"decoder": decoder},
            objective={"is": "infilling", "corruption": {"is": "span", "rate": 0.3, "predict_rate": 0.1}},
        )
