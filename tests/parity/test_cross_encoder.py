"""Stock cross-encoders with random weights: the same scores here, imported or not, and exported again."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from encodery.base.errors import ArtifactError, SettingsError
from encodery.cli.__main__ import run
from encodery.finetune.artifact import imported_head
from encodery.finetune.predict import Predictor
from encodery.model.load import load_model
from encodery.search.rerank.cross_encoder import CrossEncoder
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 320,
    "max_position_embeddings": 66,
    "num_labels": 1,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
MODERN = {**SIZES, **SPECIAL, "local_attention": 16, "global_attn_every_n_layers": 2, "initializer_range": 0.5}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {**SIZES, "initializer_range": 0.3}),
    "roberta": ("Roberta", {**SIZES, **SPECIAL, "type_vocab_size": 1, "initializer_range": 0.3}),
    "modernbert-cls": ("ModernBert", {**MODERN, "classifier_pooling": "cls"}),
    "modernbert-mean": ("ModernBert", {**MODERN, "classifier_pooling": "mean", "classifier_bias": True}),
}
QUERY = "how is a file opened"


@pytest.fixture(scope="module")
def tokenizer(texts: list[str], transformers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A stock tokenizer that marks the second text, as BERT's does."""
    folder = tmp_path_factory.mktemp("tokenizer")
    made = Tokenizer(Wordpiece().train(texts, 300))
    made.set_template()
    made.save(folder)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), model_max_length=60, model_input_names=names, **special
    )


def stock_folder(folder: Path, case: str, tokenizer: Any, transformers: ModuleType, **over: Any) -> Path:
    name, sizes = CASES[case]
    torch.manual_seed(1)
    config = getattr(transformers, f"{name}Config")(**{**sizes, **over})
    model = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_scores_equal_the_peers_read_directly_or_imported(
    case: str, tokenizer: Any, texts: list[str], transformers: ModuleType, tmp_path: Path
) -> None:
    folder = stock_folder(tmp_path / "stock", case, tokenizer, transformers)
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    passages = [text[:90] for text in texts[:12]]
    read = tokenizer([QUERY] * len(passages), passages, truncation=True, max_length=60, padding=True)
    if case != "bert":
        read.pop("token_type_ids")
    with torch.inference_mode():
        theirs = peer(**read.convert_to_tensors("pt")).logits[:, 0].double().numpy()
    assert theirs.std() > 0.01, "scores that are all alike would prove nothing"
    ours = Predictor.from_model(load_model(folder), "cpu")
    np.testing.assert_allclose(ours.score(QUERY, passages), theirs, atol=1e-5)
    assert run(["model", "import", str(folder), "--out", str(tmp_path / "ours")]) == 0
    again = Predictor.from_model(load_model(tmp_path / "ours"), "cpu")
    assert again.preprocessor.max_length == 60
    np.testing.assert_allclose(again.score(QUERY, passages), theirs, atol=1e-5)
    chunked = CrossEncoder(model=str(folder)).open().score(QUERY, [*passages, " ".join(texts[:5])])
    whole = np.array([len(ids) <= 60 for ids in tokenizer([QUERY] * len(passages), passages)["input_ids"]])
    assert whole.sum() > 8, "which docstrings are too long for a pair depends on the version of Python"
    np.testing.assert_allclose(chunked[:-1][whole], theirs[whole], atol=1e-5)
    assert np.isfinite(chunked).all()


@pytest.mark.parametrize("case", ["bert", "modernbert-mean"])
def test_an_imported_one_is_exported_to_both_libraries(
    case: str,
    tokenizer: Any,
    texts: list[str],
    transformers: ModuleType,
    sentence_transformers: ModuleType,
    tmp_path: Path,
) -> None:
    folder = stock_folder(tmp_path / "stock", case, tokenizer, transformers)
    assert run(["model", "import", str(folder), "--out", str(tmp_path / "ours")]) == 0
    assert run(["model", "export", str(tmp_path / "ours"), "--format", "hf", "--out", str(tmp_path / "hf")]) == 0
    original, exported = (load_file(tmp_path / name / "model.safetensors") for name in ("stock", "hf"))
    assert original.keys() == exported.keys()
    assert all(torch.equal(original[name], exported[name]) for name in original)
    assert (
        run(
            [
                "model",
                "export",
                str(tmp_path / "ours"),
                "--format",
                "sentence_transformers",
                "--out",
                str(tmp_path / "st"),
            ]
        )
        == 0
    )
    peer = sentence_transformers.CrossEncoder(str(tmp_path / "st"), device="cpu")
    passages = [text[:60] for text in texts[:8]]
    theirs = peer.predict([(QUERY, text) for text in passages], activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(
        Predictor.from_model(load_model(folder), "cpu").score(QUERY, passages), theirs, atol=1e-5
    )


def test_a_folder_that_sentence_transformers_saved(
    tokenizer: Any, texts: list[str], transformers: ModuleType, sentence_transformers: ModuleType, tmp_path: Path
) -> None:
    folder = stock_folder(tmp_path / "stock", "bert", tokenizer, transformers)
    peer = sentence_transformers.CrossEncoder(str(folder), device="cpu", max_length=60)
    peer.save_pretrained(str(tmp_path / "saved"))
    passages = [text[:90] for text in texts[:6]]
    theirs = peer.predict([(QUERY, text) for text in passages], activation_fn=torch.nn.Identity())
    ours = Predictor.from_model(load_model(tmp_path / "saved"), "cpu").score(QUERY, passages)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_other_heads_are_reported_not_to_be_rankers(
    tokenizer: Any, transformers: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = stock_folder(tmp_path / "three", "modernbert-mean", tokenizer, transformers, num_labels=3)
    with pytest.raises(ArtifactError, match="has no task"):
        Predictor.from_model(load_model(three))
    assert run(["model", "import", str(three), "--out", str(tmp_path / "ours")]) == 0
    odd = stock_folder(tmp_path / "odd", "modernbert-cls", tokenizer, transformers, classifier_activation="silu")
    with pytest.raises(SettingsError, match="classifier_activation = 'silu'"):
        Predictor.from_model(load_model(odd))
    assert run(["model", "import", str(odd), "--out", str(tmp_path / "kept")]) == 0
    assert "classifier_activation = 'silu'" in " ".join(capsys.readouterr().out.split())


def test_a_missing_tensor_is_named(tokenizer: Any, transformers: ModuleType, tmp_path: Path) -> None:
    folder = stock_folder(tmp_path / "stock", "roberta", tokenizer, transformers)
    weights = folder / "model.safetensors"
    save_file({name: t for name, t in load_file(weights).items() if "out_proj.weight" not in name}, weights)
    with pytest.raises(ArtifactError, match=r"classifier\.out_proj\.weight"):
        imported_head(load_model(folder))
