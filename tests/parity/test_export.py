"""Our models in stock transformers: equal logits from AutoModelForMaskedLM, equal ids, no remote code."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from encodery.base.errors import ArtifactError
from encodery.export.hf import HFExporter
from encodery.model.attention.full import FullAttention
from encodery.model.blocks.pre import PreNorm
from encodery.model.ffn.glu import GLU
from encodery.model.heads.mlm import MLMHead
from encodery.model.load import load_model, save_model
from encodery.model.masks.alternating import AlternatingMask
from encodery.model.network import build_model
from encodery.model.norms.layer import LayerNorm
from encodery.model.positions.rotary import RotaryPositions
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer

SIZES: dict[str, Any] = {
    "width": 32,
    "depth": 3,
    "heads": 2,
    "intermediate_size": 48,
    "vocab_size": 320,
    "max_length": 64,
}
PLAIN = {"attention": FullAttention(bias=False, bias_out=False), "ffn": GLU(bias=False, bias_out=False)}
MODELS = {
    "bert-without-segments": ModelSettings(**SIZES),
    "bert-headless": ModelSettings(**SIZES, head=None, type_vocab_size=2),
    "modernbert": ModelSettings(
        **SIZES,
        **PLAIN,
        positions=RotaryPositions(theta=9000.0, local_theta=800.0),
        mask=AlternatingMask(size=6, every=3),
        norm=LayerNorm(eps=1e-5, bias=False),
        block=PreNorm(first_norm=False),
        head=MLMHead(dense_bias=False),
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_our_model_in_stock_classes(case: str, transformers: ModuleType, texts: list[str], tmp_path: Path) -> None:
    made = Tokenizer(Wordpiece().train(texts, 300))
    made.set_template()
    made.save(tmp_path / "tokenizer")
    save_model(tmp_path / "model", build_model(MODELS[case], 5), tmp_path / "tokenizer")
    loaded = load_model(tmp_path / "model")
    done = HFExporter().write(loaded, tmp_path / "out")
    assert done.metrics["drift_transformers"] <= 2e-5
    assert done.metrics["tokenizer_ids_equal"]

    headless = MODELS[case].head is None
    kind = transformers.AutoModel if headless else transformers.AutoModelForMaskedLM
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock, info = kind.from_pretrained(tmp_path / "out", trust_remote_code=False, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=False)
    assert not info["missing_keys"], "no weight is random there, not even the pooler's"
    assert not info["unexpected_keys"]
    assert stock.eval().dtype == torch.float32
    inputs = tokenizer(texts[:40], padding=True, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] == SIZES["max_length"], "the tokenizer knows the maximum length"
    real = inputs["attention_mask"].bool()
    sequences = [ids[mask].tolist() for ids, mask in zip(inputs["input_ids"], real, strict=True)]
    longest, ours_rows = SIZES["max_length"], loaded.tokenizer.encode_batch(texts[:40], add_special_tokens=True)
    truncated = [[*ids[: longest - 1], ids[-1]] if len(ids) > longest else list(ids) for ids in ours_rows]
    assert sequences == truncated
    with torch.inference_mode():
        hidden = loaded.model(Batch.from_sequences(sequences)).hidden
        output = stock(**inputs)
        ours = hidden if headless else loaded.model.mlm_head(hidden, loaded.model.encoder)
        theirs = (output.last_hidden_state if headless else output.logits)[real]
    assert (ours - theirs).abs().max() <= 2e-5
    assert tokenizer.mask_token_id == loaded.tokenizer.mask_id


def test_an_export_that_the_peer_reads_differently_is_refused(
    transformers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong epsilon in config.json; reading the folder back would use it too."""
    import encodery.export._folder as folder

    monkeypatch.setattr(folder, "check_read_back", lambda *_: 0.0)
    model = build_model(MODELS["bert-without-segments"], 5)
    save_model(tmp_path / "model", model)
    true = folder._choose_format

    def bent(*arguments: Any) -> Any:
        checkpoint_format, config, origin = true(*arguments)
        return checkpoint_format, {**config, "layer_norm_eps": 0.01}, origin

    monkeypatch.setattr(folder, "_choose_format", bent)
    with pytest.raises(ArtifactError, match=r"run by transformers.*differ by"):
        HFExporter().write(load_model(tmp_path / "model"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
