"""ELECTRA's discriminator against transformers, both ways."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load_file

from encodery.export.hf import HFExporter
from encodery.model.load import load_model
from encodery.model.shape import Batch


def test_a_stock_discriminator_gives_the_same_scores_here_and_is_written_back_bit_for_bit(
    transformers: ModuleType, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = transformers.ElectraConfig(
        vocab_size=97,
        embedding_size=12,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=48,
    )
    stock = transformers.ElectraForPreTraining(config).eval()
    with torch.no_grad():
        for weight in stock.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    stock.save_pretrained(tmp_path / "in")
    loaded = load_model(tmp_path / "in")
    assert loaded.model.settings.head_name == "replaced_tokens"
    sequences = [[5, 6, 7, 8, 9], [10, 11]]
    batch = Batch.from_sequences(sequences)
    with torch.no_grad():
        theirs = torch.cat([stock(torch.tensor([ids])).logits[0] for ids in sequences])
        ours = loaded.model.extra_head("replaced_tokens")(loaded.model(batch).hidden, batch.layout)
    assert theirs.std() > 1e-2
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
    metrics = HFExporter().write(loaded, tmp_path / "out").metrics
    assert metrics["drift_transformers"] <= 2e-5
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
