"""Vocabularies and lengths: what is kept to the last bit, what new rows are made of, and the verb."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from encodery.base.errors import InputError, SettingsError
from encodery.base.settings import decode
from encodery.cli.__main__ import run
from encodery.model.heads.mlm import MLMHead
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.masks.alternating import AlternatingMask
from encodery.model.network import build_model
from encodery.model.positions.learned import LearnedPositions
from encodery.model.positions.rotary import RotaryPositions
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.surgery import Surgery, SurgeryResult
from encodery.tokens.kind.bpe import Bpe
from encodery.tokens.kind.byte import Byte
from encodery.tokens.kind.unigram import Unigram
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.pieces import normalised_pieces, spell
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import Transfer

TEXTS = [
    "the river ran past the old mill and the miller slept in the old mill",
    "a miller mills, a river runs; the mill is old, the river older. Ünïcode ça va 河 river",
    "milling running sleeping passing ages and older rivers run past older mills",
] * 6
KINDS = {"wordpiece": Wordpiece(), "bpe": Bpe(), "unigram": Unigram(), "byte": Byte()}
EMBEDDINGS = "encoder.embeddings.word.weight"
SMALL = ModelSettings(width=16, depth=2, heads=2, intermediate_size=16, max_length=16, head=MLMHead(tied=False))


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {name: Tokenizer(kind.train(TEXTS, 340)) for name, kind in KINDS.items()}


def model_of(tokenizer: Tokenizer, folder: Path, settings: ModelSettings = SMALL) -> LoadedModel:
    tokenizer.save(folder / "tokenizer")
    model = build_model(dataclasses.replace(settings, vocab_size=tokenizer.vocab_size), 3)
    with torch.no_grad():
        for name, p in model.heads.named_parameters():
            if name.endswith("bias"):
                p.normal_(generator=torch.Generator().manual_seed(0))
    save_model(folder / "model", model, folder / "tokenizer")
    return load_model(folder / "model")


def operate(loaded: LoadedModel, **table: Any) -> SurgeryResult:
    return decode(Surgery, table).operate(loaded, torch.Generator().manual_seed(0))


def embedding_of(tensor: Tensor, tokenizer: Tokenizer, piece: str) -> Tensor:
    return tensor[tokenizer.backend.token_to_id(piece)]


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_shared_pieces_are_kept_and_others_are_means(
    old: str, new: str, tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    if old == new:
        return
    loaded = model_of(tokenizers[old], tmp_path)
    tokenizers[new].save(tmp_path / "new")
    result = operate(loaded, **{"is": "vocabulary", "tokenizer": str(tmp_path / "new")})
    assert result.tokenizer is not None
    before, after = loaded.model.state_dict(), result.model.state_dict()
    known = {piece: number for number, piece in normalised_pieces(tokenizers[old]).items()}
    kept = 0
    for number, piece in normalised_pieces(tokenizers[new]).items():
        ids = [known[piece]] if piece in known else spell(tokenizers[old], piece)
        kept += piece in known
        for name in (EMBEDDINGS, "heads.mlm.decoder.weight", "heads.mlm.bias"):
            if len(ids) == 1:
                assert torch.equal(after[name][number], before[name][ids[0]]), piece
            elif ids:
                torch.testing.assert_close(after[name][number], before[name][ids].mean(0))
    assert kept == result.metrics["kept"] >= 5
    assert sum(result.metrics[key] for key in ("kept", "composed", "unknown")) == tokenizers[new].used_size
    for role in ("cls", "sep", "mask"):
        mine, theirs = (getattr(t, f"{role}_id") for t in (tokenizers[old], tokenizers[new]))
        assert torch.equal(after[EMBEDDINGS][theirs], before[EMBEDDINGS][mine])
    assert not after[EMBEDDINGS][tokenizers[new].used_size :].any()
    blocks = [name for name in before if name.startswith("encoder.blocks")]
    assert all(torch.equal(before[name], after[name]) for name in blocks)


def test_a_text_of_kept_pieces_has_the_same_states(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    loaded = model_of(tokenizers["wordpiece"], tmp_path)
    (tmp_path / "words.txt").write_text("sleeping\n\nthunderstorm\nriver\n", encoding="utf-8")
    result = operate(loaded, **{"is": "vocabulary", "words": str(tmp_path / "words.txt")})
    old, new = tokenizers["wordpiece"], result.tokenizer
    assert new is not None
    text = "the old mill and the river"
    assert new.encode(text).tolist() == old.encode(text).tolist()
    batch = Batch.from_sequences([old.encode(text, add_special_tokens=True).tolist()])
    assert torch.equal(result.model(batch).hidden, loaded.model(batch).hidden)
    assert len(new.encode("thunderstorm")) == 1 < len(old.encode("thunderstorm"))
    table, before = result.model.encoder.token_embeddings, loaded.model.encoder.token_embeddings
    composed = before[old.encode("thunderstorm").tolist()].mean(0)
    torch.testing.assert_close(embedding_of(table, new, "thunderstorm"), composed)
    assert result.metrics["composed"] == 1, "the two other words are pieces already"


def test_new_embeddings_are_the_mixtures_of_the_transfer(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    """Shared pieces are copied to the bit unless the transfer keeps none; the others are its mixtures."""
    loaded = model_of(tokenizers["wordpiece"], tmp_path)
    tokenizers["bpe"].save(tmp_path / "new")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    (tmp_path / "pairs.txt").write_text("".join(f"{w} {w}\n" for w in TEXTS[0].split()), encoding="utf-8")
    texts = str(tmp_path / "texts.txt")
    transfers: dict[str, dict[str, Any]] = {
        "global_mean": {},
        "similar_pieces": {"texts": texts, "width": 8},
        "bilingual": {
            "source_texts": texts,
            "target_texts": texts,
            "dictionary": str(tmp_path / "pairs.txt"),
            "width": 8,
        },
    }
    old, new = tokenizers["wordpiece"], tokenizers["bpe"]
    known = {piece: number for number, piece in normalised_pieces(old).items()}
    shared = {number: known[piece] for number, piece in normalised_pieces(new).items() if piece in known}
    before = loaded.model.state_dict()[EMBEDDINGS]
    for name, table in transfers.items():
        settings = {"is": "vocabulary", "tokenizer": str(tmp_path / "new"), "transfer": {"is": name, **table}}
        result = operate(loaded, **settings)
        part = decode(Transfer, {"is": name, **table})
        kept = (
            shared
            if part.keeps_shared
            else {n: o for n, o in shared.items() if normalised_pieces(new)[n][0] == "special"}
        )
        new_ids = [number for number in normalised_pieces(new) if number not in kept]
        mixtures = part.mixtures(old, new, shared, new_ids)
        after = result.model.state_dict()[EMBEDDINGS]
        assert all(torch.equal(after[number], before[source]) for number, source in kept.items())
        for number in new_ids:
            ids, weights = mixtures.get(number, (range(old.used_size), [1 / old.used_size] * old.used_size))
            expected = (before[list(ids)].double() * torch.tensor(weights, dtype=torch.float64)[:, None]).sum(0)
            torch.testing.assert_close(after[number].double(), expected, rtol=1e-4, atol=1e-6)
        counts = {"kept": len(kept), "composed": len(mixtures), "unknown": len(new_ids) - len(mixtures)}
        assert {key: result.metrics[key] for key in counts} == counts


def test_new_words_use_the_unused_ids_first(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, head=None)
    loaded = model_of(tokenizers["wordpiece"], tmp_path, settings)
    unused = tokenizers["wordpiece"].vocab_size - tokenizers["wordpiece"].used_size
    for count, size in ((unused, 0), (unused + 1, 64)):
        names = [f"thunder{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(count)]
        (tmp_path / "words.txt").write_text("\n".join(names), encoding="utf-8")
        result = operate(loaded, **{"is": "vocabulary", "words": str(tmp_path / "words.txt")})
        assert result.model.settings.vocab_size == loaded.model.settings.vocab_size + size


def test_pieces_that_cannot_be_spelled_are_the_mean_of_all(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    loaded = model_of(tokenizers["wordpiece"], tmp_path)
    foreign = Tokenizer(Wordpiece().train(["жук и лук"] * 9, 60))
    foreign.save(tmp_path / "new")
    result = operate(loaded, **{"is": "vocabulary", "tokenizer": str(tmp_path / "new")})
    used = tokenizers["wordpiece"].used_size
    mean = loaded.model.encoder.token_embeddings[:used].mean(0)
    torch.testing.assert_close(embedding_of(result.model.encoder.token_embeddings, foreign, "жук"), mean)
    assert result.metrics["unknown"] > 3


def test_invalid_vocabularies_are_refused(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    loaded = model_of(tokenizers["bpe"], tmp_path)
    words = tmp_path / "words.txt"
    words.write_text("sleeping\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="one of the two"):
        operate(loaded, **{"is": "vocabulary"})
    with pytest.raises(SettingsError, match="cannot be added"):
        operate(loaded, **{"is": "vocabulary", "words": str(words)})
    with pytest.raises(SettingsError, match="that the model has"):
        operate(loaded, **{"is": "vocabulary", "tokenizer": str(tmp_path / "tokenizer")})
    other = model_of(tokenizers["wordpiece"], tmp_path / "other")
    words.write_text("two words\n", encoding="utf-8")
    with pytest.raises(InputError, match="'two words' is no single word"):
        operate(other, **{"is": "vocabulary", "words": str(words)})
    words.write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match="holds no words"):
        operate(other, **{"is": "vocabulary", "words": str(words)})
    with pytest.raises(InputError, match=r"none\.txt"):
        operate(other, **{"is": "vocabulary", "words": str(tmp_path / "none.txt")})


@pytest.mark.parametrize("offset", [0, 2])
def test_tiled_positions_preserve_the_states_of_short_texts(
    offset: int, tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    settings = dataclasses.replace(SMALL, positions=LearnedPositions(offset=offset))
    loaded = model_of(tokenizers["wordpiece"], tmp_path, settings)
    tiled = operate(loaded, **{"is": "lengthen", "max_length": 40}).model
    short = Batch.from_sequences([list(range(16)), [5, 6]])
    assert torch.equal(tiled(short).hidden, loaded.model(short).hidden)
    assert tiled(Batch.from_sequences([[3] * 40])).hidden.shape == (40, 16)
    table, before = (m.state_dict()["encoder.positions.table.weight"] for m in (tiled, loaded.model))
    assert torch.equal(table[offset + 16 : offset + 32], before[offset:])
    interpolated = operate(loaded, **{"is": "lengthen", "max_length": 31, "method": "interpolate"}).model
    table = interpolated.state_dict()["encoder.positions.table.weight"]
    assert torch.equal(table[:offset], before[:offset])
    torch.testing.assert_close(table[offset::2], before[offset:])
    torch.testing.assert_close(table[offset + 1], (before[offset] + before[offset + 1]) / 2)


def test_rotations_slow_down_in_layers_with_full_attention(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    plain = dataclasses.replace(SMALL, positions=RotaryPositions(theta=100.0))
    loaded = model_of(tokenizers["wordpiece"], tmp_path / "plain", plain)
    positions = operate(loaded, **{"is": "lengthen", "max_length": 64}).model.settings.positions
    assert isinstance(positions, RotaryPositions)
    assert positions.theta == pytest.approx(100 * 4 ** (8 / 6))
    slowest = [theta ** -(6 / 8) * length for theta, length in ((100.0, 16), (positions.theta, 64))]
    assert slowest[0] == pytest.approx(slowest[1]), (
        "the slowest rotation does not reach as far at the new end as at the old one"
    )
    assert positions.local_theta is None
    local = dataclasses.replace(plain, mask=AlternatingMask(size=2, every=2))
    loaded = model_of(tokenizers["wordpiece"], tmp_path / "local", local)
    result = operate(loaded, **{"is": "lengthen", "max_length": 64, "theta": 7e3})
    assert result.model.settings.positions == RotaryPositions(theta=7e3, local_theta=100.0)


def test_invalid_lengths_are_refused(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    loaded = model_of(tokenizers["wordpiece"], tmp_path)
    with pytest.raises(SettingsError, match="more than the model's 16"):
        operate(loaded, **{"is": "lengthen", "max_length": 16})
    with pytest.raises(SettingsError, match="rotary"):
        operate(loaded, **{"is": "lengthen", "max_length": 32, "theta": 1e5})


def test_the_command(tokenizers: dict[str, Tokenizer], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = model_of(tokenizers["wordpiece"], tmp_path)
    out = tmp_path / "long"
    assert run(["model", "edit", str(loaded.path), "--surgery", "lengthen", "max_length=48", "--out", str(out)]) == 0
    assert "max length 48" in capsys.readouterr().out
    edited = load_model(out)
    assert edited.model.settings.max_length == 48
    assert edited.tokenizer.fingerprint == loaded.tokenizer.fingerprint
    assert edited.settings["surgery"] == {"is": "lengthen", "max_length": 48, "method": "tile", "theta": None}
    tokenizers["unigram"].save(tmp_path / "new")
    other = tmp_path / "other"
    assert (
        run(
            ["model", "edit", str(out), "--surgery", "vocabulary", f"tokenizer={tmp_path / 'new'}", "--out", str(other)]
        )
        == 0
    )
    assert "kept" in capsys.readouterr().out
    assert load_model(other).tokenizer.fingerprint == tokenizers["unigram"].fingerprint
    assert run(["model", "edit", str(out), "--surgery", "vocabulry", "--out", str(tmp_path / "no")]) == 2
    assert "Did you mean 'vocabulary'" in capsys.readouterr().err


def test_the_vocabulary_of_a_task_that_answers_in_words_cannot_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["a warm day is a good day", "a cold day is a bad day"] * 10
    tokenizer = Tokenizer(Wordpiece().train(texts, 80))
    loaded = model_of(tokenizer, tmp_path, dataclasses.replace(SMALL, max_length=32))
    rows = [{"text": f"{text} {i}", "label": "bad" if "cold" in text else "good"} for i, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    quick = ["train.budget=2steps", "train.threads=1", "train.precision=fp32", "--out", str(tmp_path / "run")]
    before = torch.get_num_threads()
    try:
        arguments = [str(tmp_path / "rows.jsonl"), "--model", str(loaded.path)]
        assert run(["finetune", "cloze", *arguments, *quick]) == 0, capsys.readouterr().err
    finally:
        torch.set_num_threads(before)
    (tmp_path / "words.txt").write_text("thunderstorm\n", encoding="utf-8")
    command = ["model", "edit", str(tmp_path / "run"), "--surgery", "vocabulary", f"words={tmp_path / 'words.txt'}"]
    assert run([*command, "--out", str(tmp_path / "no")]) == 2
    assert "predicts tokens of its vocabulary" in capsys.readouterr().err.replace("\n", " ")
    longer = [
        "model",
        "edit",
        str(tmp_path / "run"),
        "--surgery",
        "lengthen",
        "max_length=48",
        "--out",
        str(tmp_path / "yes"),
    ]
    assert run(longer) == 0, capsys.readouterr().err
