"""Models on disk: what is written is what comes back; whatever was damaged, altered or foreign is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import encodery.model.checkpoint as checkpoint
from encodery.base.artifact import Artifact, seal
from encodery.base.errors import ArtifactError, InputError, SettingsError
from encodery.model import golden
from encodery.model.foreign import from_state, to_state
from encodery.model.heads.mlm import MLM
from encodery.model.hub import Special, door_of, way_out
from encodery.model.load import load_model, save_model
from encodery.model.masks.alternating import Alternating
from encodery.model.network import Model, ModelSettings, build_model

SETTINGS = ModelSettings(width=16, depth=2, heads=2, vocab=64, max_length=40, segments=2)


@pytest.fixture(scope="module")
def model() -> Model:
    return build_model(SETTINGS, 3).eval()


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", model, settings={"labels": ["no", "yes"]}, figures={"heldout_loss": 2.5})
    return tmp_path / "model"


@pytest.fixture
def foreign(model: Model, tmp_path: Path) -> Path:
    """The same model as a Hugging Face folder."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    door = way_out(model.settings, Special(pad=0))
    config = door.config(model.settings, Special(pad=0))
    (folder / "config.json").write_text(json.dumps(config))
    save_file(to_state(door, config, model, None), folder / "model.safetensors")
    return folder


def same(a: Model, b: Model) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return (
        a.settings == b.settings and mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)
    )


def rewrite(folder: Path, change: Mapping[str, torch.Tensor | None], renames: dict[str, str] | None = None) -> None:
    """Change tensors of a checkpoint (None removes) and rename some."""
    state = load_file(folder / "model.safetensors")
    for name, tensor in change.items():
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    save_file({(renames or {}).get(k, k): v.clone() for k, v in state.items()}, folder / "model.safetensors")


def test_what_is_saved_comes_back(model: Model, saved: Path) -> None:
    loaded = load_model(saved)
    assert same(loaded.model, model)
    assert not loaded.model.training
    assert loaded.settings == {"labels": ["no", "yes"]}
    assert loaded.artifact is not None
    assert loaded.artifact.manifest.figures == {"heldout_loss": 2.5}
    with pytest.raises(ArtifactError, match="no tokenizer"):
        _ = loaded.tokenizer


def test_half_precision_and_training_mode_are_saved_as_fp32(tmp_path: Path) -> None:
    model = build_model(SETTINGS, 3).bfloat16().train()
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model").model
    assert model.training
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].float())


def test_a_run_is_its_final_model(model: Model, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_model(run / "model", model)
    assert same(load_model(run).model, model)
    seal(run, "run", {})
    assert same(load_model(run).model, model)


def test_a_run_without_its_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ArtifactError, match="resume"):
        load_model(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "golden.safetensors"])
def test_a_truncated_file_is_refused_by_name(saved: Path, file: str) -> None:
    content = (saved / file).read_bytes()
    (saved / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match=file):
        load_model(saved)


def test_one_flipped_bit_is_refused_by_name(saved: Path) -> None:
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.safetensors.*SHA-256"):
        load_model(saved)


def test_a_truncated_file_with_a_fresh_manifest_is_still_refused_by_name(saved: Path) -> None:
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[: len(content) // 2])
    seal(saved, "model", _table(saved))
    with pytest.raises(ArtifactError, match=r"model\.safetensors: damaged"):
        load_model(saved)


def test_weights_that_no_longer_compute_the_golden_vectors_are_refused(saved: Path) -> None:
    settings = Artifact.open(saved).manifest.settings
    state = load_file(saved / "model.safetensors")
    state["encoder.blocks.1.ffn.down.weight"] *= 1.05
    save_file(state, saved / "model.safetensors")
    seal(saved, "model", settings)
    with pytest.raises(ArtifactError, match=r"golden\.safetensors.*no longer computes"):
        load_model(saved)
    assert load_model(saved, verify=False)


def test_settings_that_changed_meaning_are_caught_by_the_golden_vectors(tmp_path: Path) -> None:
    """A window of another size: the same weights, other outputs."""
    settings = ModelSettings(width=16, depth=2, heads=2, vocab=64, max_length=128, mask=Alternating(size=20, every=2))
    save_model(tmp_path / "m", build_model(settings, 0))
    table = Artifact.open(tmp_path / "m").manifest.settings
    table["model"]["mask"]["size"] = 19
    seal(tmp_path / "m", "model", table)
    with pytest.raises(ArtifactError, match="no longer computes"):
        load_model(tmp_path / "m")


def test_golden_vectors_never_pass_for_nan(model: Model) -> None:
    kept = golden.make(model)
    assert golden.drift(model, kept) == 0
    broken = build_model(SETTINGS, 3).eval()
    with torch.no_grad():
        broken.encoder.embeddings.words[:] = float("nan")
    assert golden.drift(broken, kept) == float("inf")


def test_a_missing_tensor_is_refused_by_name(saved: Path) -> None:
    rewrite(saved, {"heads.mlm.bias": None})
    seal(saved, "model", _table(saved))
    with pytest.raises(ArtifactError, match=r"heads\.mlm\.bias"):
        load_model(saved)


def _table(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text())["settings"])


@pytest.mark.parametrize("kind", ["corpus", "tokens"])
def test_other_artifacts_are_refused(tmp_path: Path, kind: str) -> None:
    seal(tmp_path, kind, {})
    with pytest.raises(ArtifactError, match=f"'{kind}'"):
        load_model(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no model"):
        load_model(tmp_path)


# Foreign folders


def test_a_foreign_folder_is_read_as_it_is(model: Model, foreign: Path) -> None:
    loaded = load_model(foreign)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name])
    assert loaded.artifact is None


def test_names_of_the_first_checkpoints_come_and_go(model: Model, foreign: Path) -> None:
    state = load_file(foreign / "model.safetensors")
    old = {
        k: k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta") for k in state
    }
    rewrite(foreign, {}, old)
    came = load_file(foreign / "model.safetensors")
    assert sum("gamma" in name for name in came) == 6
    loaded = load_model(foreign)
    assert all(torch.equal(t, loaded.model.state_dict()[name]) for name, t in model.state_dict().items())
    assert loaded.origin is not None
    went = to_state(door_of(loaded.origin.config), loaded.origin.config, loaded.model, loaded.origin)
    assert went.keys() == came.keys()
    assert all(torch.equal(went[name], came[name]) for name in came)


def test_a_bare_encoder_without_prefix_has_no_head(model: Model, foreign: Path) -> None:
    state = load_file(foreign / "model.safetensors")
    rewrite(foreign, {k: None for k in state if k.startswith("cls.")}, {k: k.removeprefix("bert.") for k in state})
    loaded = load_model(foreign)
    assert loaded.model.settings.head is None
    assert torch.equal(loaded.model.encoder.words, model.encoder.words)
    with pytest.raises(SettingsError, match="no 'mlm' head"):
        _ = loaded.model.mlm


def test_shards(model: Model, foreign: Path) -> None:
    state = load_file(foreign / "model.safetensors")
    (foreign / "model.safetensors").unlink()
    placed = {name: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(sorted(state))}
    for shard in set(placed.values()):
        save_file({k: v.clone() for k, v in state.items() if placed[k] == shard}, foreign / shard)
    (foreign / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    assert same(load_model(foreign).model, load_model(foreign).model)
    assert torch.equal(load_model(foreign).model.encoder.words, model.encoder.words)
    (foreign / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ArtifactError, match="model-00002-of-00003"):
        load_model(foreign)


def test_a_pickle_is_refused_with_the_way_to_convert_it(foreign: Path) -> None:
    (foreign / "model.safetensors").rename(foreign / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin.*pickle.*save_pretrained"):
        load_model(foreign)


def test_a_truncated_foreign_file_is_refused_by_name(foreign: Path) -> None:
    content = (foreign / "model.safetensors").read_bytes()
    (foreign / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(ArtifactError, match=r"model\.safetensors: damaged"):
        load_model(foreign)


def test_a_missing_foreign_tensor_is_refused_by_name(foreign: Path) -> None:
    rewrite(foreign, {"bert.encoder.layer.1.output.dense.bias": None})
    with pytest.raises(ArtifactError, match=r"foreign.*bert\.encoder\.layer\.1\.output\.dense\.bias"):
        load_model(foreign)


def test_an_encoder_with_tensors_of_its_own_is_refused_by_name(foreign: Path) -> None:
    name = "bert.encoder.layer.0.attention.self.distance_embedding.weight"
    rewrite(foreign, {name: torch.zeros(3, 8)})
    with pytest.raises(ArtifactError, match="distance_embedding"):
        load_model(foreign)


def test_a_tensor_of_the_wrong_shape_is_refused_by_name(foreign: Path) -> None:
    rewrite(foreign, {"bert.embeddings.word_embeddings.weight": torch.zeros(63, 16)})
    with pytest.raises(ArtifactError, match=r"embeddings\.word\.weight.*\(63, 16\).*\(64, 16\)"):
        load_model(foreign)


@pytest.mark.parametrize("text", ["{", "[1]", '{"model_type": "bert"}', '{"model_type": "bert", "hidden_size": "8"}'])
def test_a_damaged_configuration_is_refused(foreign: Path, text: str) -> None:
    (foreign / "config.json").write_text(text)
    with pytest.raises((ArtifactError, SettingsError), match=r"foreign.*"):
        load_model(foreign)


def test_repeated_tensors_go_out_as_they_came_and_follow_the_weights(model: Model, foreign: Path) -> None:
    state = load_file(foreign / "model.safetensors")
    words, bias = state["bert.embeddings.word_embeddings.weight"], state["cls.predictions.bias"]
    extra = {"cls.predictions.decoder.weight": words.clone(), "cls.predictions.decoder.bias": bias.clone()}
    pooler = {"bert.pooler.dense.weight": torch.randn(16, 16), "cls.seq_relationship.weight": torch.randn(2, 16)}
    rewrite(foreign, extra | pooler)
    config = checkpoint.read_json(foreign / "config.json")
    door = door_of(config)
    found, origin = from_state(door, config, load_file(foreign / "model.safetensors"))
    assert isinstance(found.settings.head, MLM)
    assert found.settings.head.tied
    assert set(origin.rest) == set(pooler)
    went = to_state(door, config, found, origin)
    came = load_file(foreign / "model.safetensors")
    assert went.keys() == came.keys()
    assert all(torch.equal(went[name], came[name]) for name in came)
    with torch.no_grad():
        found.encoder.words.add_(1)
    assert torch.equal(to_state(door, config, found, origin)["cls.predictions.decoder.weight"], words + 1)


def test_a_decoder_that_differs_is_not_tied_whatever_the_configuration_says(foreign: Path) -> None:
    rewrite(foreign, {"cls.predictions.decoder.weight": torch.randn(64, 16)})
    head = load_model(foreign).model.settings.head
    assert isinstance(head, MLM)
    assert not head.tied


def test_an_untied_decoder_must_be_there(foreign: Path) -> None:
    config = checkpoint.read_json(foreign / "config.json")
    (foreign / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(ArtifactError, match=r"decoder\.weight"):
        load_model(foreign)


# sentence-transformers


def sentence_folder(foreign: Path, modules: list[str], pooling: dict[str, Any]) -> Path:
    (foreign / "1_Pooling").mkdir()
    (foreign / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    table = [
        {"idx": i, "path": paths.get(m, m), "type": f"sentence_transformers.models.{m}"} for i, m in enumerate(modules)
    ]
    (foreign / "modules.json").write_text(json.dumps(table))
    return foreign


@pytest.mark.parametrize(
    "pooling", [{"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, {"pooling_mode": "cls"}]
)
def test_a_sentence_folder_tells_how_to_embed(foreign: Path, tmp_path: Path, pooling: dict[str, Any]) -> None:
    sentence_folder(foreign, ["Transformer", "Pooling", "Normalize"], pooling)
    (foreign / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    (foreign / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q: ", "document": ""}}')
    loaded = load_model(foreign)
    expected = {
        "pooling": {"is": "cls"},
        "finish": [{"is": "normalise"}],
        "max_length": 24,
        "prompts": {"query": "q: "},
    }
    assert loaded.settings == {"embed": expected}
    save_model(tmp_path / "kept", loaded.model, settings=loaded.settings, origin=loaded.origin)
    assert load_model(tmp_path / "kept").settings == {"embed": expected}


def test_the_transformer_may_lie_in_a_folder_of_its_own(model: Model, foreign: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    foreign.rename(whole / "0_Transformer")
    (whole / "0_Transformer" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n##s\n")
    (whole / "modules.json").write_text(
        '[{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]'
    )
    loaded = load_model(whole)
    assert torch.equal(loaded.model.encoder.words, model.encoder.words)
    assert loaded.tokenizer.encode("Words word", specials=True).tolist() == [2, 5, 6, 5, 3]


def test_lower_casing_outside_the_tokenizer_is_refused(foreign: Path) -> None:
    sentence_folder(foreign, ["Transformer", "Pooling"], {"pooling_mode": "mean"})
    (foreign / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": true}')
    with pytest.raises(SettingsError, match="do_lower_case"):
        load_model(foreign)


def test_modules_we_would_not_compute_are_refused(foreign: Path) -> None:
    sentence_folder(foreign, ["Transformer", "Pooling", "Dense"], {"pooling_mode": "mean"})
    with pytest.raises(SettingsError, match="'Dense'"):
        load_model(foreign)


def test_two_poolings_at_once_are_refused(foreign: Path) -> None:
    both = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    sentence_folder(foreign, ["Transformer", "Pooling"], both)
    with pytest.raises(SettingsError, match=r"cls.*mean"):
        load_model(foreign)


# Names on the hub


def test_a_name_is_fetched_where_no_folder_is(
    model: Model, foreign: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        assert not any("bin" in pattern for pattern in allow_patterns)
        return str(shutil.copytree(foreign, tmp_path / "fetched"))

    hub = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setattr(checkpoint, "require", lambda *_: hub)
    assert torch.equal(load_model("someone/some-model").model.encoder.words, model.encoder.words)
    assert asked == ["someone/some-model"]


def test_a_name_that_cannot_be_fetched_is_named_with_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(checkpoint, "require", lambda *_: SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(InputError, match=r"'someone/some-model'.*no route.*local folder"):
        load_model("someone/some-model")


def test_without_the_extra_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"'bert-base-uncased'.*pip install 'encodery\[hub\]'"):
        load_model("bert-base-uncased")


@pytest.mark.parametrize("path", ["/no/such/folder", "./nothing", "a/b/c"])
def test_paths_are_not_looked_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "require", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(InputError, match="no such folder"):
        load_model(path)


# Tokenizers


def test_a_tokenizer_json_is_made_of_older_files(model: Model, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nWord\nword\n##s\n")
    (tmp_path / "old" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    save_model(tmp_path / "model", model, tmp_path / "old")
    assert (tmp_path / "model" / "tokenizer" / "tokenizer.json").is_file()
    tokenizer = load_model(tmp_path / "model").tokenizer
    assert tokenizer.encode("Words word [MASK]", specials=True, markup=True).tolist() == [2, 5, 7, 6, 4, 3]
    assert tokenizer.vocab_size == SETTINGS.vocab


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
