"""Runs of replaced-token detection: resumed bit for bit, judged by the detection, exported to the stock class."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.export.hf import HFExporter
from encodery.model.load import load_model
from encodery.model.shape import Batch
from encodery.train.launch import resume, start
from encodery.train.recipe import Recipe

HEADS = {"head": None, "extra_heads": ["replaced_tokens"]}
SIZES = {"width": 32, "heads": 4, "depth": 2, "type_vocab_size": 2}
OBJECTIVE = {"is": "replaced_tokens"}


def test_a_run_is_judged_by_the_detection_and_exported_to_the_stock_class(
    table: Callable[..., Recipe[Any]], tmp_path: Path
) -> None:
    embeddings = {"is": "factorized", "width": 16}
    recipe = table(model={**SIZES, **HEADS, "embeddings": embeddings}, objective=OBJECTIVE, train={"budget": "30steps"})
    metrics = start(recipe, tmp_path / "run").metrics
    assert {"heldout_loss", "heldout_accuracy", "detection", "mlm", "recall", "replaced"} <= metrics.keys()
    assert not {"bits_per_byte", "perplexity"} & metrics.keys()
    assert abs(metrics["heldout_loss"] - metrics["mlm"] - 50 * metrics["detection"]) < 1e-6
    loaded = load_model(tmp_path / "run")
    assert list(loaded.model.heads) == ["replaced_tokens"]
    assert not any("generator" in name for name, _ in loaded.model.named_parameters())
    done = HFExporter(verify_with_peer=False).write(loaded, tmp_path / "hf")
    assert done.format == "electra"
    transformers = pytest.importorskip("transformers")
    stock = transformers.ElectraForPreTraining.from_pretrained(tmp_path / "hf").eval()
    batch = Batch.from_sequences([[2, 9, 10, 3]])
    with torch.no_grad():
        theirs = stock(batch.ids[None]).logits[0]
        ours = loaded.model.extra_head("replaced_tokens")(loaded.model(batch).hidden, batch.layout)
    assert theirs.std() > 1e-4
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)


def test_a_run_is_resumed_bit_for_bit(
    table: Callable[..., Recipe[Any]],
    tmp_path: Path,
    power_cut: Callable[[int], AbstractContextManager[None]],
    losses: Callable[[Path], dict[int, float]],
) -> None:
    recipe = table(model={**SIZES, **HEADS}, objective=OBJECTIVE)
    start(recipe, tmp_path / "whole")
    with power_cut(6):
        start(recipe, tmp_path / "torn")
    resume(tmp_path / "torn")
    assert losses(tmp_path / "torn") == losses(tmp_path / "whole")


def test_a_model_without_the_head_is_refused_when_settings_are_read(table: Callable[..., Recipe[Any]]) -> None:
    with pytest.raises(SettingsError, match=r"model.extra_heads=\[\"replaced_tokens\"\]"):
        table(model=SIZES, objective=OBJECTIVE)
