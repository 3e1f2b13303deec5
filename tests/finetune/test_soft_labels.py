"""Rows that have a share of each label in place of one label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import InputError
from encodery.finetune.heads.labels import label_names, soft_labels
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.tasks.classify import TextClassification
from encodery.model.load import LoadedModel
from encodery.objectives import normalised_loss, sum_counts


def test_soft_labels_are_learned(loaded: LoadedModel) -> None:
    task, reader = (
        TextClassification(dropout=0.0, label_smoothing=0.0),
        Preprocessor(loaded.tokenizer, 24, True, "right"),
    )
    texts = ["one red cat", "two dog"]
    losses = []
    for labels in (["a", "b"], [{"a": 1.0, "b": 0}, {"b": 2.0}], [{"a": 0.5, "b": 0.5}, "b"]):
        rows: dict[str, list[Any]] = {"text": texts, "label": labels}
        known = task.fit_metadata(rows, loaded.tokenizer)
        batch = task.prepare(rows, reader, known, True).batch(np.arange(2))
        torch.manual_seed(0)
        module = task.build(loaded.model.settings.shape, known)
        with torch.no_grad():
            predicted = module(loaded.model(batch), batch)
            losses.append(float(normalised_loss(module.loss(predicted, batch), sum_counts([module.counts(batch)]))))
        logs = predicted.log_softmax(-1)
    assert losses[0] == pytest.approx(losses[1])
    assert losses[2] == pytest.approx(-float((logs[0].mean() + logs[1, 1]) / 2), rel=1e-5)
    with pytest.raises(InputError, match="Row 1: its labels"):
        soft_labels(["a", {"a": -1.0, "b": 2.0}])
    assert label_names(["a", {"a": 0.2, "b": 0.8}]) == ["a", "b"], "what such a row is judged by"
