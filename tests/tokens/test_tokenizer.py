"""Tokenizers on disk: training, saving, loading here and in `transformers`, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError, EmptyInput, InputError, SettingsError
from encodery.base.settings import decode_with_overrides, parse_overrides
from encodery.corpus.document import Document
from encodery.tokens.kind.bpe import Bpe
from encodery.tokens.kind.byte import Byte
from encodery.tokens.kind.hub import Hub
from encodery.tokens.kind.unigram import Unigram
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.measure import information_loss
from encodery.tokens.sample import DocumentSample
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.train import TokenizerSettings, train_tokenizer


def test_training_writes_an_artifact_that_names_its_corpus(corpus: Path, tokenizer_folder: Path) -> None:
    artifact = Artifact.open(tokenizer_folder, "tokenizer")
    assert artifact.manifest.parents["corpus"]["fingerprint"] == Artifact.open(corpus).manifest.fingerprint
    assert artifact.manifest.settings["kind"]["is"] == "wordpiece"
    assert artifact.manifest.metrics["used_size"] == 1000
    assert artifact.manifest.metrics["vocab_size"] == 1024


def test_training_twice_writes_the_same_files(corpus: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    again = train_tokenizer(corpus, tmp_path / "again", TokenizerSettings(vocab_size=1000))
    assert again.manifest.fingerprint == Artifact.open(tokenizer_folder).manifest.fingerprint


def test_training_into_the_same_folder_does_nothing_unless_settings_differ(
    corpus: Path, tokenizer_folder: Path
) -> None:
    before = Artifact.open(tokenizer_folder).manifest.created, (tokenizer_folder / "manifest.json").stat().st_mtime_ns
    again = train_tokenizer(corpus, tokenizer_folder, TokenizerSettings(vocab_size=1000))
    assert (again.manifest.created, (tokenizer_folder / "manifest.json").stat().st_mtime_ns) == before
    with pytest.raises(InputError, match="already exists"):
        train_tokenizer(corpus, tokenizer_folder, TokenizerSettings(vocab_size=1001))


def test_it_is_the_same_after_saving(tokenizer: Tokenizer, tmp_path: Path, texts: list[str]) -> None:
    tokenizer.save(tmp_path / "copy", max_length=512, token_type_ids=True)
    copy = Tokenizer.load(tmp_path / "copy")
    assert copy.fingerprint == tokenizer.fingerprint
    assert all(map(np.array_equal, copy.encode_batch(texts), tokenizer.encode_batch(texts)))
    config = json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 512
    assert config["model_input_names"] == ["input_ids", "token_type_ids", "attention_mask"]


@pytest.mark.parametrize(
    "kind", [Wordpiece(), Wordpiece(lowercase=True, strip_accents=True), Bpe(), Unigram(), Byte()], ids=repr
)
def test_transformers_loads_it_with_the_same_ids(kind: object, texts: list[str], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tokenizer = Tokenizer(kind.train([t[:3000] for t in texts], 600))  # type: ignore[attr-defined]
    tokenizer.set_template()
    tokenizer.save(tmp_path)
    stock = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    some = [*texts[:10], "", "naïve Ünï 🙂 北京", "a [MASK] here", "two  spaces\n"]
    ours = tokenizer.encode_batch(some, add_special_tokens=True, parse_special_tokens=True)
    assert [ids.tolist() for ids in ours] == stock(some)["input_ids"]
    assert stock.mask_token_id == tokenizer.mask_id
    assert stock.pad_token_id == tokenizer.pad_id
    pair = stock("one", "two")["input_ids"]
    assert pair.count(tokenizer.sep_id) == 2
    for text, ids in zip(some[:10], ours[:10], strict=True):
        assert stock.decode(ids.tolist(), skip_special_tokens=True) == tokenizer.decode(ids), text[:50]


def test_a_tokenizer_from_elsewhere_becomes_an_artifact(tokenizer_folder: Path, corpus: Path, tmp_path: Path) -> None:
    train_tokenizer(corpus, tmp_path / "hub", TokenizerSettings(kind=Hub(folder=str(tokenizer_folder))))
    assert Tokenizer.load(tmp_path / "hub").fingerprint == Tokenizer.load(tokenizer_folder).fingerprint
    with pytest.raises(ArtifactError, match=r"no tokenizer\.json"):
        Hub(folder=str(tmp_path)).train([], 64)


def test_truncation_and_padding_of_a_stock_tokenizer_are_off(tokenizer_folder: Path, tmp_path: Path) -> None:
    inner = Tokenizer.load(tokenizer_folder).backend
    inner.enable_truncation(8)
    inner.enable_padding(length=16)
    inner.save(str(tmp_path / "tokenizer.json"))
    ids = Tokenizer.load(tmp_path).encode("one statement of many words that would not fit eight of them")
    assert len(ids) > 8
    assert 0 not in ids.tolist()


def test_special_tokens_of_roberta_are_found(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Inner
    from tokenizers import models

    names = ["<s>", "<pad>", "</s>", "<unk>", "a", "<mask>"]
    inner = Inner(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    inner.add_special_tokens([name for name in names if len(name) > 1])
    inner.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "mask_token": "<mask>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.cls_id, loaded.pad_id, loaded.sep_id, loaded.unk_id, loaded.mask_id) == (0, 1, 2, 3, 5)
    assert loaded.special_ids == {0, 1, 2, 3, 5}


def test_a_missing_special_token_is_named(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Inner
    from tokenizers import models

    Inner(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="no mask token"):
        _ = Tokenizer.load(tmp_path).mask_id


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        Tokenizer.load(tmp_path)


def test_case_accents_and_rare_characters_are_kept() -> None:
    """German nouns, a sentence without spaces, vowel signs, an emoji next to a word."""
    thai = "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอนหรือวรรณยุกต์เช่นเดียวกับภาษาจีนและออกเสียงแยกคำต่อคำเป็นที่ลำบากของชาวต่างชาติ"
    texts = ["Die Möwe möchte mochte über der See", "हिन्दी की भाषा", thai, "great movie"] * 4
    made = Tokenizer(Wordpiece().train(texts, 600))
    assert made.decode(made.encode("Die Möwe möchte über")) == "Die Möwe möchte über"
    assert made.encode("möchte").tolist() != made.encode("mochte").tolist()
    assert made.decode(made.encode("हिन्दी")) == "हिन्दी"
    assert made.unk_id not in made.encode(thai * 3)
    pieces = [made.piece(number) for number in made.encode("great👍🏽 movie")]
    assert pieces == ["great", "[UNK]", "[UNK]", "movie"]
    folded = Tokenizer(Wordpiece(lowercase=True, strip_accents=True).train(texts, 600))
    assert folded.encode("Möchte").tolist() == folded.encode("mochte").tolist()


def test_training_counts_what_is_unknown_and_folded(corpus: Path, tmp_path: Path) -> None:
    kept = train_tokenizer(corpus, tmp_path / "kept", TokenizerSettings(vocab_size=1000)).manifest.metrics
    assert kept["folded_rate"] == 0.0
    settings = TokenizerSettings(vocab_size=1000, kind=Wordpiece(lowercase=True))
    folded = train_tokenizer(corpus, tmp_path / "folded", settings).manifest.metrics
    assert 0.02 < folded["folded_rate"] < 0.9
    tokenizer = Tokenizer(Wordpiece().train(["a plain text"] * 3, 64))
    lost = information_loss(tokenizer, [Document("1", "a plain 中 text 中 ☃", {})])
    assert lost["unknown_characters"] == ["中", "☃"]
    assert lost["unknown_rate"] == pytest.approx(3 / 6)


def test_offsets_point_into_the_text(tokenizer: Tokenizer) -> None:
    text = "The Statement, executed."
    ids, offsets = tokenizer.encode_with_offsets(text, add_special_tokens=True)
    assert offsets[0].tolist() == offsets[-1].tolist() == [0, 0]
    pieces = [text[a:b] for a, b in offsets.tolist()]
    assert "".join(pieces) == "TheStatement,executed."
    assert [tokenizer.piece(i).removeprefix("##") for i in ids[1:-1]] == pieces[1:-1]


def test_decode_skips_ids_that_pad_the_vocabulary(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("the statement").tolist(), tokenizer.vocab_size - 1]
    assert tokenizer.decode(ids) == "the statement"
    assert tokenizer.piece(tokenizer.vocab_size - 1) == ""


def document(number: int, size: int) -> Document:
    return Document(f"{number:016x}", f"{number:05d} " + "é" * size)


def test_a_sample_keeps_its_bytes_and_does_not_depend_on_order() -> None:
    documents = [document(i, 40) for i in range(500)]
    sample, reverse = (DocumentSample(some, 10_000, 1000) for some in (documents, documents[::-1]))
    assert list(sample) == list(reverse) == list(sample)
    assert 9_800 < sample.bytes <= 10_000
    assert sample.bytes == sum(len(text.encode()) for text in sample)
    assert sample.total_documents == 500
    more = DocumentSample(documents, 20_000, 1000)
    assert set(sample) < set(more)


def test_a_sample_truncates_long_documents_and_takes_all_if_they_fit() -> None:
    cut = DocumentSample([document(1, 5000)], 10_000, 101)
    assert cut.bytes == 101
    assert [len(text) for text in cut] == [6 + 47]
    assert len(DocumentSample([document(i, 10) for i in range(9)], 10_000, 1000)) == 9


def test_settings_from_the_command_line() -> None:
    made = decode_with_overrides(
        TokenizerSettings, {}, parse_overrides(["kind=bpe", "vocab_size=512", "kind.lowercase=true"])
    )
    assert made == TokenizerSettings(kind=Bpe(lowercase=True), vocab_size=512)
    with pytest.raises(SettingsError, match="vocab"):
        TokenizerSettings(vocab_size=3)
    with pytest.raises(SettingsError, match="261"):
        Bpe().train(["a"], 128)
    with pytest.raises(SettingsError, match="unigram"):
        Unigram().train(["a"], 200)


def test_a_corpus_without_text_is_refused(make_corpus: Callable[..., Artifact], tmp_path: Path) -> None:
    make_corpus(tmp_path / "empty", [], [])
    with pytest.raises(EmptyInput, match="no text"):
        train_tokenizer(tmp_path / "empty", tmp_path / "out", TokenizerSettings())
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_an_unknown_token_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("a", -1.0)]
    for unk_id in (None, 1):
        tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id, False)).save(str(tmp_path / "tokenizer.json"))
        if unk_id is None:
            with pytest.raises(ArtifactError, match="unk_id"):
                Tokenizer.load(tmp_path)
        else:
            assert Tokenizer.load(tmp_path).encode("ab").tolist() == [2, 1]
