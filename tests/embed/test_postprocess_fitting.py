"""Postprocess steps fitted to raw sentences: stored, loaded, and refused where they make no sense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encodery.base.errors import EmptyInput, SettingsError
from encodery.cli.__main__ import run
from encodery.embed import postprocess_fitting
from encodery.embed.postprocess_fitting import fit_postprocess
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.postprocess.whiten import Whiten
from encodery.encoders.settings import DenseSettings
from encodery.model.load import LoadedModel, load_model

WHITEN = {"postprocess": [{"is": "whiten", "power": 1.0, "floor": 0.0}, "normalise"]}


@pytest.fixture
def sentences() -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(f"a{i}" for i in rng.integers(0, 40, 4)) for _ in range(300)]


def test_fitted_steps_are_stored_and_loaded(loaded: LoadedModel, sentences: list[str], tmp_path: Path) -> None:
    made = fit_postprocess(loaded, [*sentences, "", sentences[0]], tmp_path / "model", WHITEN)
    assert made.manifest.metrics["sentences"] == len(set(sentences))
    assert abs(made.manifest.metrics["mean_cosine"]) < 0.05 < made.manifest.metrics["mean_cosine_before"]
    again = load_model(tmp_path / "model")
    plain = DenseEncoder(loaded.model, loaded.tokenizer, DenseSettings(postprocess=()))
    sample = list(dict.fromkeys(sentences))
    raw = plain.encode(sample).vectors
    part = Whiten(power=1.0, floor=0.0)
    expected = part.apply(raw, part.fit(raw))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(DenseEncoder.from_loaded(again).encode(sample).vectors, expected, atol=1e-4)
    twice = fit_postprocess(again, sentences, tmp_path / "twice", {"postprocess": [{"is": "centre"}]})
    assert load_model(twice.path).settings["dense"]["postprocess"] == [{"is": "centre", "directions": 0}]


def test_the_sample_is_drawn_from_all_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postprocess_fitting, "SAMPLE_SENTENCES", 100)
    drawn = [int(text) for text in postprocess_fitting._sample(str(n) for n in range(5000))]
    assert len(set(drawn)) == 100
    assert 1500 < np.mean(drawn) < 3500


def test_steps_are_fitted_from_the_command_line(
    loaded: LoadedModel, sentences: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sentences.txt"
    file.write_text("\n".join(sentences), encoding="utf-8")
    arguments = ["embed", "postprocess", str(loaded.path), "--texts", str(file), "--out", str(tmp_path / "out")]
    assert run([*arguments, 'postprocess=[{is="whiten",keep=8},"normalise"]', "pooling.is=cls"]) == 0
    assert "mean cosine of two sentences" in capsys.readouterr().out
    assert run(["embed", "encode", "a1 a2", "--model", str(tmp_path / "out")]) == 0
    assert len(capsys.readouterr().out.split(",")) == 8
    assert run([*arguments, "--overwrite", 'postprocess=["normalise"]']) == 2
    assert "whiten and centre are" in capsys.readouterr().err


def test_steps_that_cannot_be_fitted_are_refused(loaded: LoadedModel, sentences: list[str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has weights, and none are stored"):
        fit_postprocess(loaded, sentences, tmp_path / "out", {**WHITEN, "pooling": "scalar_mix"})
    with pytest.raises(EmptyInput, match="fewer than two"):
        fit_postprocess(loaded, ["a1", "a1", " "], tmp_path / "out", WHITEN)
    assert not (tmp_path / "out").exists()
