"""Layers of heads: initial weights, the learning rate of a scaled linear map, dropout in training only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from encodery.finetune.heads.layers import ScaledLRLinear, grouped_log_softmax
from encodery.finetune.heads.pooled import PooledHead
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks.classify import TextClassification
from encodery.finetune.tasks.span import ExtractiveQA
from encodery.finetune.tasks.tag import SequenceTagging
from encodery.model.shape import Batch, Output

WIDTH = 256


@pytest.mark.parametrize("lr_scale", [1.0, 10.0])
def test_effective_weights_are_drawn_with_a_standard_deviation_of_002(lr_scale: float) -> None:
    torch.manual_seed(0)
    layer = ScaledLRLinear(WIDTH, 64, lr_scale)
    effective = (layer(torch.eye(WIDTH)) - layer(torch.zeros(1, WIDTH))).detach()
    assert float(effective.std()) == pytest.approx(0.02, rel=0.05)
    assert float(layer.weight.detach().std()) == pytest.approx(0.02 / lr_scale, rel=0.05), "stored divided by the scale"
    assert not layer.bias.any()


def test_a_step_of_adam_moves_the_map_as_many_times_farther_as_the_scale_says() -> None:
    moved = []
    for lr_scale in (1.0, 10.0):
        torch.manual_seed(0)
        layer = ScaledLRLinear(4, 1, lr_scale)
        before = layer(torch.ones(1, 4)).detach()
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
        layer(torch.ones(1, 4)).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        moved.append(float((layer(torch.ones(1, 4)).detach() - before).abs()))
    assert moved[1] == pytest.approx(10 * moved[0], rel=1e-3)


def test_pooled_heads_drop_out_in_training_only() -> None:
    batch, hidden = Batch.from_sequences([[1] * 5, [2] * 7]), torch.randn(12, WIDTH)
    head = PooledHead(WIDTH, 3, TextClassification(dropout=0.5), TaskMetadata())
    torch.manual_seed(1)
    assert not torch.equal(head(hidden, batch), head(hidden, batch)), "different units are dropped each time"
    head.eval()
    torch.testing.assert_close(head(hidden, batch), head(hidden, batch), rtol=0, atol=0)
    pooled = torch.stack([hidden[:5].mean(0), hidden[5:].mean(0)])
    torch.testing.assert_close(head(hidden, batch), head.out(pooled))


@pytest.mark.parametrize("task", [SequenceTagging(dropout=0.5), ExtractiveQA(dropout=0.5)])
def test_heads_of_tokens_drop_out_in_training_only(task: SequenceTagging | ExtractiveQA) -> None:
    metadata = TaskMetadata(labels=("O", "B-x"), counts=(1.0, 1.0))
    settings = {"width": WIDTH, "depth": 1, "heads": 4, "vocab_size": 10}
    from encodery.base.settings import decode
    from encodery.model.settings import ModelSettings

    module = task.build(decode(ModelSettings, settings).shape, metadata)
    batch, output = Batch.from_sequences([[1] * 6]), Output(torch.randn(6, WIDTH))
    assert not torch.equal(module(output, batch), module(output, batch))
    module.eval()
    torch.testing.assert_close(module(output, batch), module(output, batch), rtol=0, atol=0)
    assert isinstance(module.dropout, nn.Dropout)
    assert module.dropout.p == 0.5


def test_log_softmax_within_groups() -> None:
    scores, group = torch.tensor([1.0, 2.0, -3.0, 0.5, 4.0]), torch.tensor([0, 1, 0, 1, 1])
    grouped = grouped_log_softmax(scores, group, 2)
    torch.testing.assert_close(grouped[[0, 2]], scores[[0, 2]].log_softmax(0))
    torch.testing.assert_close(grouped[[1, 3, 4]], scores[[1, 3, 4]].log_softmax(0))
