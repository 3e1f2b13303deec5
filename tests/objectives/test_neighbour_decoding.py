"""Spans decoded from the [CLS] vector of their neighbour: the formula, what the decoder may see, held-out halves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule
from encodery.checks.objectives import MASK_ID, example_batch, example_model, prepare
from encodery.corrupt.token import TokenMasking
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.objectives import ObjectiveModule
from encodery.objectives.neighbour_decoding import NeighbourDecoding, halves_of

PART = NeighbourDecoding(depth=2)


def prepared() -> tuple[Model, ObjectiveModule, Batch, Output]:
    """A model with large random weights, and the spans of the example batch with their hidden states."""
    model, module = example_model(PART)
    with torch.no_grad():
        for weight in (*model.parameters(), *module.parameters()):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())) * 0.2)
    batch = prepare(module, example_batch())
    return model, module, batch, module.encode(model, batch)


def losses_by_hand(model: Model, module: ObjectiveModule, batch: Batch, hidden: Tensor) -> list[Tensor]:
    """The cross entropy of each span's tokens that the decoder predicts, each span run alone."""
    ends, sums = batch.cu_seqlens.tolist(), []
    for i in range(len(batch)):
        start, end, other = ends[i], ends[i + 1], ends[i + 1] if i % 2 == 0 else ends[i - 1]
        inputs = model.encoder.embeddings(batch.extra["decoder_ids"][start:end], None)
        inputs = torch.cat([hidden[other : other + 1], inputs[1:]])
        alone = Batch.from_sequences([[0] * (end - start)]).layout
        logits = model.mlm_logits(module.get_submodule("decoder")(inputs, alone))
        own = (batch.extra["decoder_positions"] >= start) & (batch.extra["decoder_positions"] < end)
        predicted = batch.extra["decoder_positions"][own] - start
        sums.append(F.cross_entropy(logits[predicted], batch.extra["decoder_labels"][own], reduction="sum"))
    return sums


def test_the_loss_is_the_cross_entropy_of_spans_that_are_decoded_from_their_neighbours() -> None:
    model, module, batch, output = prepared()
    term = module.loss(model, output, batch)["context"]
    expected = losses_by_hand(model, module, batch, output.hidden)
    assert term.count == batch.extra["decoder_labels"].numel()
    torch.testing.assert_close(term.total, torch.stack(expected).sum())
    assert torch.stack(expected).std() > 0.1


def test_a_decoder_learns_from_the_first_state_of_the_neighbour_alone() -> None:
    model, module, batch, output = prepared()
    hidden = output.hidden.detach().requires_grad_()
    batch.extra["decoder_labels"] = batch.extra["decoder_labels"].where(
        batch.extra["decoder_positions"] < batch.cu_seqlens[1], -100
    )
    module.loss(model, Output(hidden), batch)["context"].total.backward()
    assert hidden.grad is not None
    assert hidden.grad.abs().sum(1).nonzero().flatten().tolist() == [int(batch.cu_seqlens[1])]


def test_the_decoder_sees_fewer_tokens_than_the_encoder_and_other_ones() -> None:
    _, module, batch, _ = prepared()
    encoder, decoder = (ids == MASK_ID for ids in (batch.ids, batch.extra["decoder_ids"]))
    text = batch.tokens - 2 * len(batch)
    assert encoder.sum() == pytest.approx(0.3 * 0.8 * text, abs=6)
    assert decoder.sum() == pytest.approx(0.45 * text, abs=1)
    assert (encoder & ~decoder).any()
    assert module.rates(0.5) == {"mask_rate": 0.3, "decoder_mask_rate": 0.45}


def test_texts_are_halved_as_the_feed_halves_pieces() -> None:
    halves = halves_of(Batch.from_sequences([[1, 7, 8, 9, 2], [1, 5, 2], [1, 2], [1, 6, 7, 2]]))
    assert halves.ids.tolist() == [1, 7, 2, 1, 8, 9, 2, 1, 6, 2, 1, 7, 2]
    assert halves.cu_seqlens.tolist() == [0, 3, 7, 10, 13]
    assert halves.cu_seqlens.dtype == torch.int32
    assert halves.max_seqlen == 4


def test_a_held_out_batch_without_two_tokens_is_judged_by_its_masked_tokens() -> None:
    model, module = example_model(PART)
    masked = {"masked_positions": torch.tensor([1]), "labels": torch.tensor([9])}
    batch = Batch.from_sequences([[1, MASK_ID, 2]])
    terms = module.evaluate(model, batch.with_ids(batch.ids, **masked), torch.Generator().manual_seed(0))
    assert terms["loss"].count == 1
    assert terms["context"].count == 0


def test_the_decoder_is_counted() -> None:
    """A deeper decoder costs what its layers cost: in operations, in memory and in weights."""
    one, two, model = NeighbourDecoding(depth=1), PART, example_model(PART)[0].settings
    flops = [example_model(part)[1].flops(model, 20.0, 0.5) for part in (one, two)]
    layer = 24 * 32 * 32 + 4 * 20 * 32  # attention 8 H², feed-forward 16 H², scores 4 L H
    assert flops[1] - flops[0] == pytest.approx(3 * layer)
    assert two.num_parameters(model) - one.num_parameters(model) == sum(
        p.numel() for p in example_model(PART)[0].encoder.blocks[0].parameters()
    )
    assert two.activation_bytes(model, 1000, 50) > one.activation_bytes(model, 1000, 50) > 0


@pytest.mark.parametrize("name", ["corruption", "decoder_corruption"])
def test_predicting_other_tokens_than_the_masked_ones_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"objective\.{name}\.predict_rate"):
        NeighbourDecoding(**{name: TokenMasking(predict_rate=Schedule.parse(0.1))})  # type: ignore[arg-type]
