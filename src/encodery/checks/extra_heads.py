"""Checks of extra heads. Shapes: T tokens, B sequences, H width."""

from __future__ import annotations

import torch
from torch import Tensor

from encodery.base.settings import decode, encode
from encodery.model import count
from encodery.model.extra_heads import ExtraHead, ExtraHeadModule
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

SEQUENCES = [[3, 1, 2], [4, 5], [6, 7, 8, 9]]


def settings_with(part: ExtraHead) -> ModelSettings:
    """Return the settings of a small model whose only head is the part."""
    return ModelSettings(width=16, depth=1, heads=2, vocab_size=40, max_length=12, head=None, extra_heads=(part,))


def example(part: ExtraHead) -> tuple[Model, ExtraHeadModule]:
    """Return a model and the module of its only head."""
    model = build_model(settings_with(part)).eval()
    (module,) = model.heads.values()
    assert isinstance(module, ExtraHeadModule)
    return model, module


def scores_of(part: ExtraHead, sequences: list[list[int]]) -> Tensor:
    """Return the scores of these sequences."""
    model, module = example(part)
    batch = Batch.from_sequences(sequences)
    scores: Tensor = module(model(batch).hidden, batch.layout)
    return scores


def check_settings_round_trip(part: ExtraHead) -> None:
    """The part is what its settings decode to."""
    assert decode(ExtraHead, encode(part)) == part


def check_scores(part: ExtraHead) -> None:
    """There is one score for each token, or C scores for each sequence, and they depend on that sequence alone."""
    together = scores_of(part, SEQUENCES)
    assert together.shape == (9,) or (together.ndim == 2 and len(together) == len(SEQUENCES)), tuple(together.shape)
    torch.testing.assert_close(torch.cat([scores_of(part, [sequence]) for sequence in SEQUENCES]), together)


def check_all_weights_are_trained(part: ExtraHead) -> None:
    """Every parameter gets a gradient from the scores."""
    model, module = example(part)
    batch = Batch.from_sequences(SEQUENCES)
    module(model(batch).hidden, batch.layout).square().sum().backward()
    missing = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert not missing, f"without a gradient: {', '.join(missing)}"


def check_operations_are_counted(part: ExtraHead) -> None:
    """The head adds two operations for each weight and token that it reads to those of the encoder."""
    settings = settings_with(part)
    weights = sum(p.numel() for p in example(part)[1].parameters() if p.ndim == 2)
    bare = ModelSettings(width=16, depth=1, heads=2, vocab_size=40, max_length=12, head=None)
    added = count.flops_per_token(settings, 6.0, backward=False) - count.flops_per_token(bare, 6.0, backward=False)
    assert abs(added - 2 * weights * part.fraction(6.0)) < 1e-6 * added
    assert 0 < part.fraction(6.0) <= 1
