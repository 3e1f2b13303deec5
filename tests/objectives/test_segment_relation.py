"""Pairs made of held-out texts that are too short for a pair."""

from __future__ import annotations

import torch

from encodery.checks.objectives import MASK_ID, example_model
from encodery.model.shape import Batch
from encodery.objectives.segment_relation import SegmentRelation


def test_a_held_out_batch_without_a_pair_is_judged_by_its_masked_tokens() -> None:
    model, module = example_model(SegmentRelation())
    masked = {"masked_positions": torch.tensor([1]), "labels": torch.tensor([9])}
    batch = Batch.from_sequences([[1, MASK_ID, 7, 2]])
    terms = module.evaluate(model, batch.with_ids(batch.ids, **masked), torch.Generator().manual_seed(0))
    assert terms["loss"].count == 1
    assert terms["relation"].count == terms["relation_accuracy"].count == 0
