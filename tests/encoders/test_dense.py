"""Dense embeddings: order, batches, long texts by every policy, prompts, streams."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from encodery.base.errors import ArtifactError, InputError, SettingsError
from encodery.encoders import single_vector as module
from encodery.encoders.dense import ASSUMPTION, DenseEncoder
from encodery.encoders.files import EmbeddingFile, read_texts
from encodery.encoders.packing import pack_sequences
from encodery.encoders.pooling.mean import Mean
from encodery.encoders.postprocess.centre import Centre
from encodery.encoders.postprocess.normalise import Normalise
from encodery.encoders.postprocess.whiten import Whiten
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.settings import DenseSettings
from encodery.model.load import LoadedModel
from encodery.model.shape import Batch, Output
from encodery.tokens.windows import batches_by_length

RNG = np.random.default_rng(0)
LETTERS = list("abcdefghijklmnop")
TEXTS = ["".join(RNG.choice(LETTERS, int(n))) for n in RNG.integers(0, 11, 40)] + ["", "a"]


def test_order_and_batches_do_not_matter(encoder: DenseEncoder) -> None:
    one_by_one = np.concatenate([encoder.encode([text]).vectors for text in TEXTS])
    for budget in (1, 13, 64, 100_000):
        np.testing.assert_allclose(encoder.encode(TEXTS, batch_tokens=budget).vectors, one_by_one, atol=2e-6)
    assert np.linalg.norm(one_by_one, axis=1) == pytest.approx(1, abs=1e-5)
    assert encoder.encode([]).vectors.shape == (0, encoder.dimension)


def test_mean_includes_special_tokens(encoder: DenseEncoder) -> None:
    ids = [encoder.tokenizer.cls_id, *encoder.tokenizer.encode("abc").tolist(), encoder.tokenizer.sep_id]
    with torch.inference_mode():
        hidden = encoder.model.encoder(Batch.from_sequences([ids])).hidden.numpy()
    expected = hidden.mean(axis=0) / np.linalg.norm(hidden.mean(axis=0))
    result = encoder.encode(["abc"])
    np.testing.assert_allclose(result.vectors[0], expected, atol=1e-6)
    assert result.tokens.tolist() == [5]


def test_mean_without_special_tokens() -> None:
    hidden = torch.arange(12.0).view(6, 2)
    batch = Batch.from_sequences([[1, 1, 1, 1], [1, 1]])
    module_ = Mean(include_special_tokens=False).build(None)  # type: ignore[arg-type]
    assert module_(Output(hidden), batch).tolist() == [[3.0, 4.0], [9.0, 10.0]]


def test_long_texts_by_every_policy(encoder: DenseEncoder) -> None:
    text = "abcdefghijklmnopqrstuvwxy"  # 25 letters, 10 fit
    with pytest.raises(InputError, match="Text 1 has 25 tokens, the model takes 10"):
        encoder.encode(["a", text])
    right, left = (encoder.encode(["a", text], truncate=policy) for policy in ("right", "left"))
    np.testing.assert_allclose(right.vectors[1], encoder.encode([text[:10]]).vectors[0], atol=1e-6)
    np.testing.assert_allclose(left.vectors[1], encoder.encode([text[-10:]]).vectors[0], atol=1e-6)
    assert right.dropped.tolist() == left.dropped.tolist() == [0, 15]
    whole = encoder.encode(["a", text], truncate="chunk")
    assert whole.dropped.tolist() == [0, 0]
    assert whole.tokens.tolist() == [3, 25 + 3 * 2]
    bare = DenseEncoder(encoder.model, encoder.tokenizer, DenseSettings(postprocess=()), device="cpu")
    parts = [text[:9], text[9:17], text[17:]]
    expected = np.average(bare.encode(parts).vectors, axis=0, weights=[11, 10, 10])
    np.testing.assert_allclose(whole.vectors[1], expected / np.linalg.norm(expected), atol=1e-6)
    with pytest.raises(InputError, match="'chunk'"):
        encoder.encode(["a"], truncate="chunks")


def test_prompts(encoder: DenseEncoder) -> None:
    np.testing.assert_allclose(
        encoder.encode(["abc"], prompt="ask").vectors, encoder.encode(["q abc"]).vectors, atol=1e-6
    )
    with pytest.raises(InputError, match="'ask'"):
        encoder.encode(["abc"], prompt="asks")


def test_a_stream_is_read_in_parts(encoder: DenseEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 16)
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for text in TEXTS:
            read += 1
            yield text

    pieces = encoder.stream(texts())
    first = next(pieces)
    assert (len(first), read) == (16, 16)
    result = np.concatenate([first.vectors, *(piece.vectors for piece in pieces)])
    np.testing.assert_allclose(result, encoder.encode(TEXTS).vectors, atol=2e-6)
    with pytest.raises(InputError, match="Text 20 has"):
        list(encoder.stream(["a"] * 20 + ["a" * 30]))


def test_inputs_that_are_not_a_list_of_texts(encoder: DenseEncoder) -> None:
    with pytest.raises(InputError, match="a list of texts"):
        encoder.encode("one text")
    with pytest.raises(InputError, match="Text 1 is of type int"):
        encoder.encode(["a", 3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="batch_tokens"):
        encoder.encode(["a"], batch_tokens=0)
    with pytest.raises(SettingsError, match="max_length = 2"):
        DenseEncoder(encoder.model, encoder.tokenizer, DenseSettings(max_length=2))


def test_packing_equals_a_loop_over_sequences() -> None:
    sequences = [np.array(s, np.uint32) for s in ([7, 8], [], [9])]
    fast, plain = pack_sequences(sequences, 2, 3), Batch.from_sequences([[2, 7, 8, 3], [2, 3], [2, 9, 3]])
    assert fast.ids.tolist() == plain.ids.tolist()
    assert fast.cu_seqlens.tolist() == plain.cu_seqlens.tolist()
    assert (fast.max_seqlen, fast.cu_seqlens.dtype) == (4, torch.int32)


def test_batches_keep_the_budget_and_lose_nothing() -> None:
    lengths = RNG.integers(2, 50, 200)
    result = list(batches_by_length(lengths, 128))
    assert sorted(np.concatenate(result).tolist()) == list(range(200))
    assert all(lengths[some].sum() <= 128 for some in result)
    assert sum(lengths[some].sum() for some in result) / len(result) > 100
    assert [some.tolist() for some in batches_by_length(np.array([500]), 128)] == [[0]]
    assert list(batches_by_length(np.array([], np.int64), 128)) == []


def test_token_offsets_cover_the_text(encoder: DenseEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "ab cd  ef " * 5
    whole = encoder.token_offsets(text)
    assert "".join(text[a:b] for a, b in whole) == text.replace(" ", "")
    monkeypatch.setattr("encodery.encoders.text_windows.MAX_PART_CHARACTERS", 7)
    assert encoder.token_offsets(text).tolist() == whole.tolist()
    assert encoder.token_offsets("").shape == (0, 2)


def test_fingerprints_follow_weights_and_settings(encoder: DenseEncoder) -> None:
    same = DenseEncoder(encoder.model, encoder.tokenizer, encoder.settings)
    other = DenseEncoder(encoder.model, encoder.tokenizer, dataclasses.replace(encoder.settings, postprocess=()))
    assert same.fingerprint == encoder.fingerprint != other.fingerprint


def test_centring_and_whitening() -> None:
    sample = RNG.standard_normal((4000, 6)).astype(np.float32) @ np.diag([9, 3, 2, 1, 1, 0.5]).astype(np.float32) + 4
    centred = Centre(directions=1)
    rest = centred.apply(sample, centred.fit(sample))
    assert np.abs(rest.mean(axis=0)).max() < 1e-4
    assert rest[:, 0].std() < 0.1
    white = Whiten(power=1, floor=0)
    covariance = np.cov(white.apply(sample, white.fit(sample)).T)
    np.testing.assert_allclose(covariance / covariance[0, 0], np.eye(6), atol=0.1)
    assert Whiten(keep=3).apply(sample, Whiten(keep=3).fit(sample)).shape == (4000, 3)
    few = Whiten()
    spread = few.apply(sample, few.fit(sample[:2])).std(axis=0)
    assert spread.max() / spread.min() > 5  # so small a sample equalises nothing


def test_postprocessing_is_saved_and_loaded(tmp_path: Path) -> None:
    vectors = RNG.standard_normal((100, 8)).astype(np.float32) + 3
    steps = (Normalise(), Whiten(keep=4), Normalise())
    postprocessing = PostProcessing.fitted(steps, vectors)
    postprocessing.save(tmp_path / "postprocess.safetensors")
    again = PostProcessing.load(steps, tmp_path / "postprocess.safetensors")
    np.testing.assert_array_equal(again.apply(vectors), postprocessing.apply(vectors))
    assert again.output_dim(8) == 4
    with pytest.raises(ArtifactError, match="belongs to none"):
        PostProcessing.load(steps[:1], tmp_path / "postprocess.safetensors")
    (tmp_path / "postprocess.safetensors").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="damaged"):
        PostProcessing.load(steps, tmp_path / "postprocess.safetensors")


def test_reading_texts_from_files(tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_bytes("one\n\nthrée\r\nfour".encode())
    assert list(read_texts(plain)) == ["one", "", "thrée", "four"]
    rows = tmp_path / "a.jsonl"
    rows.write_text('{"text": "one"}\n{"body": "two"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"line 2.*'text'.*Its columns: body"):
        list(read_texts(rows))
    rows.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"line 1: is not JSON"):
        list(read_texts(rows))
    plain.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not UTF-8"):
        list(read_texts(plain))
    with pytest.raises(InputError, match="no such file"):
        list(read_texts(tmp_path / "absent"))


def test_embedding_files_appear_complete_or_not_at_all(tmp_path: Path) -> None:
    vectors = RNG.standard_normal((7, 3)).astype(np.float32)
    with EmbeddingFile(tmp_path / "x.npy", 3) as file:
        file.write(vectors[:4])
        file.write(vectors[4:])
        assert not (tmp_path / "x.npy").exists()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), vectors)
    with pytest.raises(ZeroDivisionError), EmbeddingFile(tmp_path / "y.npy", 3) as file:
        file.write(vectors / 0 if 1 // 0 else vectors)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy"]
    with pytest.raises(InputError, match=r"\.npy or \.jsonl"):
        EmbeddingFile(tmp_path / "x.csv", 3)


def test_what_a_folder_does_not_state_is_reported_once(loaded: LoadedModel, caplog: pytest.LogCaptureFixture) -> None:
    bare = dataclasses.replace(loaded, path=loaded.path / "bare", artifact=None, settings={})
    for _ in range(2):
        assert "mean pooling" in str(DenseEncoder.from_loaded(bare, "cpu").assumption)
    assert [record.getMessage() for record in caplog.records].count(f"{bare.path}: {ASSUMPTION} are assumed.") == 1
    stated = dataclasses.replace(bare, settings={"dense": {"pooling": "cls"}})
    assert DenseEncoder.from_loaded(stated, "cpu").assumption is None
