"""Held-out figures of finished models: comparable, with intervals, refused where they would mean nothing."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from encodery.base.errors import ArtifactError, EmptyInput, InputError
from encodery.cli.__main__ import run as encodery
from encodery.evaluate.mlm import evaluate_mlm
from encodery.evaluate.significance import group_difference, group_interval
from encodery.model.load import load_model, save_model


@pytest.fixture(scope="module")
def sharper(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's model with another output bias: it guesses by the frequency of tokens, as an untrained one cannot."""
    import torch

    from encodery.tokens.store import TokenStore

    loaded = load_model(run)
    store = TokenStore.open(run.parent / "tokens")
    counts = np.bincount(np.concatenate(store.train.shards), minlength=store.special_tokens.vocab_size)
    with torch.no_grad():
        loaded.model.mlm_head.bias.copy_(torch.tensor(np.log(counts + 0.1)))  # type: ignore[operator, union-attr]
    folder = tmp_path_factory.mktemp("models") / "sharper"
    save_model(folder, loaded.model, run.parent / "tokenizer")
    return folder


def test_a_better_model_is_ahead_by_more_than_chance(run: Path, sharper: Path) -> None:
    tokens = run.parent / "tokens"
    plain, sharp = evaluate_mlm([run, sharper], tokens)
    assert sharp.loss < plain.loss - 1
    assert plain.predicted == sharp.predicted
    assert min(plain.seconds, sharp.seconds) > 0
    assert sharp.difference_interval is not None
    assert sharp.difference_interval[1] < 0
    assert sharp.p is not None
    assert sharp.p == 2 / 2**10  # ten groups, all of them on one side
    assert (plain.difference_interval, plain.p) == (None, None)
    same = evaluate_mlm([run, run], tokens)[1]
    assert (same.difference_interval, same.p) == ((0, 0), 1)
    assert sharp.perplexity == pytest.approx(math.exp(sharp.loss))
    # untrained: near the loss of a uniform guess over the ids
    assert plain.loss == pytest.approx(math.log(192), abs=1.0)


def test_figures_depend_on_nothing_but_model_and_text(run: Path, sharper: Path) -> None:
    tokens = run.parent / "tokens"
    alone, again = evaluate_mlm([sharper], tokens)[0], evaluate_mlm([run, sharper], tokens)[1]
    assert alone.loss == again.loss
    assert alone.accuracy == again.accuracy


def test_a_corpus_gives_the_figures_of_its_store(run: Path, sharper: Path) -> None:
    packed, encoded = (evaluate_mlm([sharper], run.parent / name)[0] for name in ("tokens", "corpus"))
    assert encoded.loss == pytest.approx(packed.loss, abs=1e-6)
    assert encoded.bits_per_byte == pytest.approx(packed.bits_per_byte, rel=1e-3)


def test_models_with_different_tokenizers_meet_on_the_text(run: Path, sharper: Path, tmp_path: Path) -> None:
    from encodery.tokens.train import TokenizerSettings, train_tokenizer

    train_tokenizer(run.parent / "corpus", tmp_path / "small", TokenizerSettings(vocab_size=96))
    save_model(tmp_path / "other", load_model(run).model, tmp_path / "small")
    first, second = evaluate_mlm([sharper, tmp_path / "other"], run.parent / "tokens")
    assert first.tokenizer != second.tokenizer
    assert (second.difference_interval, second.p) == (None, None)
    assert second.tokens > first.tokens
    moved = tmp_path / "moved"
    shutil.copytree(run.parent / "tokens", moved)
    manifest = json.loads((moved / "manifest.json").read_text())
    manifest["parents"]["corpus"]["path"] = str(tmp_path / "gone")
    (moved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="Give the corpus instead"):
        evaluate_mlm([tmp_path / "other"], moved)


def test_invalid_inputs_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="tokens or corpus"):
        evaluate_mlm([run], run.parent / "tokenizer")
    with pytest.raises(InputError, match="length = 4096"):
        evaluate_mlm([run], run.parent / "tokens", length=4096)
    bare = tmp_path / "bare"
    shutil.copytree(run.parent / "corpus", bare)
    shutil.rmtree(bare / "heldout")
    manifest = json.loads((bare / "manifest.json").read_text())
    manifest["files"] = {k: v for k, v in manifest["files"].items() if not k.startswith("heldout")}
    (bare / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EmptyInput, match="no held-out documents"):
        evaluate_mlm([run], bare)


def test_the_verb(run: Path, sharper: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = str(run.parent / "tokens")
    assert encodery(["evaluate", "mlm", tokens, "--model", str(run), "--model", str(sharper), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in scores] == [str(run), str(sharper)]
    assert encodery(["evaluate", "mlm", tokens, "--model", str(run), "--tokens", "500"]) == 0
    shown = capsys.readouterr().out
    assert "bits/byte" in shown
    assert "tokens/s" in shown
    assert "difference" not in shown
    assert encodery(["evaluate", "mlm", tokens, "--model", str(run), "--model", str(sharper)]) == 0
    assert "0.002" in capsys.readouterr().out
    assert encodery(["evaluate", "mlm", tokens]) == 2
    assert "Missing option '--model'" in capsys.readouterr().err


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        counts = rng.integers(50, 100, 40).astype(float)
        sums = counts * rng.normal(3.0, 0.5, 40)
        interval = group_interval(sums, counts, seed=trial)
        assert interval is not None
        inside += interval[0] <= 3.0 <= interval[1]
    assert 0.88 <= inside / 200 <= 0.99
    assert group_interval(np.ones(4), np.ones(4)) is None
    shift = group_difference(sums, sums + 0.2 * counts, counts)
    assert shift == pytest.approx((0.2, 0.2))
