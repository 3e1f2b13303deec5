"""Feed-forward matrices as products of two narrow ones: the nearest ones, fewer weights, and whole matrices again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.checks.surgery import SENTENCE, example
from encodery.export.hf import HFExporter
from encodery.model.count import activation_bytes, flops_per_token, num_parameters
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.surgery import SurgeryResult
from encodery.surgery.low_rank import FactoriseFFN

SIZES = {"width": 16, "depth": 2, "heads": 2, "intermediate_size": 24, "vocab_size": 60, "max_length": 16}


def stored(folder: Path, **changes: Any) -> LoadedModel:
    """A stored model with random weights and biases."""
    model = build_model(decode(ModelSettings, {**SIZES, **changes}), 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())) * 0.2)
    save_model(folder, model)
    return load_model(folder)


def operate(part: FactoriseFFN, loaded: LoadedModel) -> SurgeryResult:
    return part.operate(loaded, torch.Generator())


@pytest.mark.parametrize("ffn", ["mlp", "glu", {"is": "pattern", "of": ["mlp", "glu"]}])
def test_a_full_rank_changes_nothing_and_is_merged_again(ffn: Any, tmp_path: Path) -> None:
    loaded = stored(tmp_path / "whole", ffn=ffn, decoder={"depth": 1})
    batch = Batch.from_sequences([[5, 9, 3, 7], [8, 2]])
    batch = dataclasses.replace(batch, memory=batch)
    result = operate(FactoriseFFN(rank=16), loaded)
    torch.testing.assert_close(result.model(batch).hidden, loaded.model(batch).hidden, rtol=1e-4, atol=1e-5)
    assert result.metrics["kept_energy"] == pytest.approx(1)
    save_model(tmp_path / "factors", result.model)
    merged = operate(FactoriseFFN(merge=True), load_model(tmp_path / "factors")).model
    assert merged.settings == loaded.model.settings
    for name, tensor in loaded.model.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_the_product_is_the_nearest_of_its_rank(tmp_path: Path) -> None:
    loaded = stored(tmp_path / "whole")
    result = operate(FactoriseFFN(rank=5), loaded)
    after, fractions = result.model.state_dict(), []
    for layer in range(2):
        for name in ("up", "down"):
            start = f"encoder.blocks.{layer}.ffn.{name}"
            whole = loaded.model.state_dict()[f"{start}.weight"]
            first, second = after[f"{start}.first.weight"], after[f"{start}.second.weight"]
            values = torch.linalg.svdvals(whole)
            assert first.shape == (5, whole.shape[1])
            assert (whole - second @ first).norm() ** 2 == pytest.approx(float((values[5:] ** 2).sum()), rel=1e-3)
            torch.testing.assert_close(first.norm(dim=1), second.norm(dim=0))
            assert torch.equal(after[f"{start}.second.bias"], loaded.model.state_dict()[f"{start}.bias"])
            fractions.append(float((values[:5] ** 2).sum() / (values**2).sum()))
    assert result.metrics["kept_energy"] == pytest.approx(sum(fractions) / 4)


def test_weights_operations_and_memory_are_those_of_the_factors() -> None:
    whole = decode(ModelSettings, SIZES)
    narrow = decode(ModelSettings, {**SIZES, "ffn": {"is": "low_rank", "ffn": "mlp", "rank": 5}})
    saved = 2 * 2 * (16 * 24 - 5 * (16 + 24))  # two layers of two matrices
    assert num_parameters(whole) - num_parameters(narrow) == saved
    assert flops_per_token(whole, 8) - flops_per_token(narrow, 8) == pytest.approx(3 * 2 * saved)
    assert activation_bytes(narrow, 100, 8) - activation_bytes(whole, 100, 8) == 4 * 100 * 2 * 2 * 5


def test_factors_are_exported_when_they_are_merged(tmp_path: Path) -> None:
    loaded = example(tmp_path / "whole")
    result = operate(FactoriseFFN(rank=6), loaded)
    result.save(tmp_path / "factors", loaded, FactoriseFFN(rank=6))
    factors = load_model(tmp_path / "factors")
    with pytest.raises(SettingsError, match=r"ffn = 'low_rank' \(needs 'mlp'\)"):
        HFExporter(verify_with_peer=False).write(factors, tmp_path / "refused")
    merge = FactoriseFFN(merge=True)
    operate(merge, factors).save(tmp_path / "merged", factors, merge)
    done = HFExporter(verify_with_peer=False).write(load_model(tmp_path / "merged"), tmp_path / "hf")
    assert done.format == "bert"
    batch = Batch.from_sequences([loaded.tokenizer.encode(SENTENCE, add_special_tokens=True).tolist()])
    torch.testing.assert_close(
        load_model(tmp_path / "hf").model(batch).hidden, factors.model(batch).hidden, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "surgery", "message"),
    [
        ({}, {"rank": 17}, "ffn.rank = 17: must be at most 16"),
        ({}, {"merge": True}, "merge = true: needs a model with ffn = 'low_rank'; this one has 'mlp'"),
        ({"ffn": {"is": "low_rank", "ffn": "mlp", "rank": 3}}, {"rank": 2}, "merge = false: needs a model with whole"),
        ({"ffn": {"is": "mixture", "expert": "mlp"}}, {"rank": 3}, "ffn.ffn = 'mixture' has no two matrices"),
        ({"depth": 0}, {"rank": 3}, "no feed-forward layers"),
    ],
)
def test_what_cannot_be_factorised_is_refused(
    changes: dict[str, Any], surgery: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        operate(FactoriseFFN(**surgery), stored(tmp_path / "model", **changes))
