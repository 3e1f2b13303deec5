"""Masked tokens and the relation of two segments, in BertForPreTraining and AlbertForPreTraining, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.checks.formats import SPECIAL, random_model
from encodery.export.hf import HFExporter
from encodery.model.checkpoint import write_tensors
from encodery.model.conversion import exportable_format
from encodery.model.load import load_model, save_model
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

TOLERANCE = 2e-5
HEADS = "mlm+segment_relation"
SIZES = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "bert-untied": ("Bert", {"tie_word_embeddings": False}),
    "albert": ("Albert", {"embedding_size": 12}),
    "albert-two-groups": ("Albert", {"embedding_size": 12, "num_hidden_groups": 2, "tie_word_embeddings": False}),
}
FIELDS = {"Bert": "seq_relationship_logits", "Albert": "sop_logits"}
SEQUENCES, SEGMENTS = [[2, 6, 7, 3, 8, 9, 3], [2, 10, 3, 11, 3]], [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]


def stock_model(transformers: ModuleType, case: str) -> tuple[Any, str]:
    """A stock model with all weights random, and the name of its scores of the relation."""
    name, config = CASES[case]
    torch.manual_seed(0)
    made = getattr(transformers, f"{name}Config")(**SIZES, max_position_embeddings=48, **config)
    stock = getattr(transformers, f"{name}ForPreTraining")(made).eval()
    with torch.no_grad():
        for weight in stock.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return stock, FIELDS[name]


@torch.inference_mode()
def their_scores(stock: Any, field: str) -> tuple[Tensor, Tensor]:
    """Scores of tokens (T, V) and of relations (B, 2), each sequence run alone."""
    outputs = [
        stock(torch.tensor([ids]), token_type_ids=torch.tensor([kinds]))
        for ids, kinds in zip(SEQUENCES, SEGMENTS, strict=True)
    ]
    return torch.cat([out.prediction_logits[0] for out in outputs]), torch.cat([out[field] for out in outputs])


@torch.inference_mode()
def our_scores(model: Model) -> tuple[Tensor, Tensor]:
    batch = Batch.from_sequences(SEQUENCES, SEGMENTS)
    hidden = model(batch).hidden
    return model.mlm_head(hidden, model.encoder), model.extra_head("segment_relation")(hidden, batch.layout)


def check_equal(model: Model, stock: Any, field: str) -> None:
    for ours, theirs in zip(our_scores(model), their_scores(stock, field), strict=True):
        assert theirs.std() > 1e-2
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_a_stock_model_gives_the_same_scores_here_and_is_written_back_bit_for_bit(
    case: str, transformers: ModuleType, tmp_path: Path
) -> None:
    stock, field = stock_model(transformers, case)
    stock.save_pretrained(tmp_path / "in")
    loaded = load_model(tmp_path / "in")
    assert loaded.model.settings.head_name == HEADS
    check_equal(loaded.model, stock, field)
    done = HFExporter().write(loaded, tmp_path / "out")
    assert done.metrics["drift_transformers"] <= TOLERANCE
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("case", CASES)
def test_our_model_gives_the_same_scores_in_the_stock_class(
    case: str, transformers: ModuleType, tmp_path: Path
) -> None:
    stock, field = stock_model(transformers, case)
    stock.save_pretrained(tmp_path / "in")
    settings = load_model(tmp_path / "in").model.settings
    model = random_model(settings)
    save_model(tmp_path / "ours", model)
    done = HFExporter().write(load_model(tmp_path / "ours"), tmp_path / "out")
    assert done.metrics["drift_transformers"] <= TOLERANCE
    again, info = type(stock).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    check_equal(model, again.eval(), field)
    assert load_model(tmp_path / "out").model.settings == settings
    assert "was not trained" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_the_export_is_refused_if_the_scores_of_the_relation_differ(
    transformers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of an export sees the second head too, not only the logits of the vocabulary."""
    stock, _ = stock_model(transformers, "bert")
    stock.save_pretrained(tmp_path / "in")
    forward = type(stock).forward

    def shifted(self: Any, *inputs: Any, **named: Any) -> Any:
        output = forward(self, *inputs, **named)
        output["seq_relationship_logits"] = output["seq_relationship_logits"] + 0.1
        return output

    monkeypatch.setattr(type(stock), "forward", shifted)
    with pytest.raises(Exception, match="drift"):
        HFExporter().write(load_model(tmp_path / "in"), tmp_path / "out")


def test_a_score_of_the_relation_without_its_pooler_is_kept_but_no_head(
    transformers: ModuleType, tmp_path: Path
) -> None:
    stock, _ = stock_model(transformers, "bert")
    stock.save_pretrained(tmp_path / "in")
    state: Mapping[str, Tensor] = load_file(tmp_path / "in" / "model.safetensors")
    write_tensors(
        tmp_path / "in" / "model.safetensors", {n: t for n, t in state.items() if not n.startswith("bert.pooler.")}
    )
    loaded = load_model(tmp_path / "in")
    assert loaded.model.settings.head_name == "mlm"
    assert loaded.origin is not None
    assert "cls.seq_relationship.weight" in loaded.origin.extra_tensors


def test_a_model_whose_format_has_no_such_class_is_refused() -> None:
    settings = decode(
        ModelSettings,
        {"width": 16, "depth": 1, "heads": 2, "type_vocab_size": 1, "positions": {"is": "learned", "offset": 1},
         "extra_heads": ["segment_relation"]},
    )  # fmt: skip
    with pytest.raises(SettingsError, match=r"roberta: heads = mlm\+segment_relation \(needs mlm or none\)"):
        exportable_format(settings, SPECIAL)
