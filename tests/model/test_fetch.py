"""Names on the hub are downloaded, paths are not; tokenizers of older files are read."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import encodery.model.checkpoint as checkpoint
from encodery.base.errors import ArtifactError, InputError
from encodery.model.load import load_model, save_model
from encodery.model.network import Model

# Names on the hub


def test_a_name_is_downloaded_if_there_is_no_folder(
    model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    requested: list[Any] = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        requested.append(name)
        assert not any("bin" in pattern for pattern in allow_patterns)
        return str(shutil.copytree(folder, tmp_path / "fetched"))

    hub = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setattr(checkpoint, "require", lambda *_: hub)
    assert torch.equal(load_model("someone/some-model").model.encoder.token_embeddings, model.encoder.token_embeddings)
    assert requested == ["someone/some-model"]


def test_a_failed_download_names_the_model_and_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(checkpoint, "require", lambda *_: SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(InputError, match=r"'someone/some-model'.*no route.*local folder"):
        load_model("someone/some-model")


def test_without_the_extra_the_pip_command_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"'bert-base-uncased'.*pip install 'encodery\[hub\]'"):
        load_model("bert-base-uncased")


@pytest.mark.parametrize("path", ["/no/such/folder", "./nothing", "a/b/c"])
def test_paths_are_not_looked_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "require", lambda *_: pytest.fail("the hub was contacted"))
    with pytest.raises(InputError, match="no such folder"):
        load_model(path)


# Tokenizers


def test_a_tokenizer_json_is_made_from_older_files(model: Model, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nWord\nword\n##s\n")
    (tmp_path / "old" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    save_model(tmp_path / "model", model, tmp_path / "old")
    assert (tmp_path / "model" / "tokenizer" / "tokenizer.json").is_file()
    tokenizer = load_model(tmp_path / "model").tokenizer
    assert tokenizer.encode("Words word [MASK]", add_special_tokens=True, parse_special_tokens=True).tolist() == [
        2,
        5,
        7,
        6,
        4,
        3,
    ]
    assert tokenizer.vocab_size == model.settings.vocab_size


@pytest.mark.parametrize("files", [{}, {"sentencepiece.bpe.model": "x"}, {"vocab.json": "{}"}])
def test_a_folder_without_a_readable_tokenizer_is_refused(model: Model, tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "old").mkdir()
    for name, text in files.items():
        (tmp_path / "old" / name).write_text(text)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json.*save_pretrained"):
        save_model(tmp_path / "model", model, tmp_path / "old")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("missing", ["[UNK]", "[CLS]"])
def test_a_vocabulary_without_its_special_pieces_is_refused(model: Model, tmp_path: Path, missing: str) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join({"[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"} - {missing}))
    with pytest.raises(ArtifactError, match=r"vocab\.txt.*" + missing[1:-1]):
        save_model(tmp_path / "model", model, tmp_path)
