"""Models of single patterns teach each other and a classifier: the sampled texts, the training, and a whole run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.base.errors import SettingsError
from encodery.finetune.generations import draw_texts, soften, train_generations, write_rows
from encodery.finetune.predict import Predictor
from encodery.model.load import LoadedModel, load_model

SMALL: dict[str, Any] = {
    "epochs": 1,
    "dropout": 0.0,
    "task": {"patterns": ["{text} {mask} .", "{mask} {text} ."]},
    "train": {"threads": 1, "precision": "fp32", "evals": 1},
}
Rows = dict[str, list[Any]]


def test_texts_are_drawn_by_label_and_by_how_sure_they_are() -> None:
    chances = np.array([[0.9, 0.1]] * 50 + [[0.55, 0.45]] * 50 + [[0.2, 0.8]] * 10)
    some = draw_texts(chances, [40, 40], seed=0)
    assert len(some) == len(set(some.tolist())) == 50
    assert (some >= 100).sum() == 10, "as many as there are"
    often = np.bincount(np.concatenate([draw_texts(chances, [10, 0], seed) for seed in range(200)]), minlength=110)
    assert 1.3 < often[:50].sum() / often[50:100].sum() < 2.0
    assert np.array_equal(draw_texts(chances, [40, 40], 1), draw_texts(chances, [40, 40], 1))
    assert not len(draw_texts(chances, [0, 0], 0))


def test_what_the_models_say_is_joined_and_softened() -> None:
    one, other = np.array([[0.9, 0.1]]), np.array([[0.6, 0.4]])
    [label_weights] = soften(["a", "b"], [np.log(one), np.log(other)])
    # The root of the geometric mean's odds: at temperature 2, and of two models.
    assert label_weights["a"] / label_weights["b"] == pytest.approx((9 * 1.5) ** 0.25, rel=1e-4)


@pytest.mark.slow
def test_generations_end_in_a_classifier(loaded: LoadedModel, rows: Callable[..., Rows], tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", {"train": rows("classify", 12), "dev": rows("classify", 12, 1)})
    write_rows(tmp_path / "texts", {"train": {"text": rows("classify", 40, 2)["text"]}})
    over = {**SMALL, "task": {**SMALL["task"], "verbalizer": {"red": "red", "green": "green", "blue": "blue"}}}
    messages: list[str] = []
    metrics = train_generations(
        tmp_path / "rows",
        tmp_path / "texts",
        loaded.path,
        over,
        tmp_path / "out",
        generations=2,
        report=messages.append,
    )
    assert "tuned_dev_accuracy" in metrics
    counts = [
        len((tmp_path / "out" / f"generation-{g}" / "pattern-1" / "rows" / "train.jsonl").read_text().splitlines())
        for g in (1, 2)
    ]
    assert counts[0] == 12
    assert 12 < counts[1] <= 12 + 40
    lines = (tmp_path / "out" / "classifier" / "rows" / "train.jsonl").read_text().splitlines()
    assert len(lines) == 40
    assert all(sum(json.loads(line)["label"].values()) == pytest.approx(1, abs=1e-4) for line in lines)
    assert Predictor.from_model(load_model(tmp_path / "out" / "classifier" / "run")).predict(["one red"]).answers
    assert any(line.startswith("generation 2") for line in messages)
    with pytest.raises(SettingsError, match="at least two"):
        one = {**over, "task": {"patterns": ["{text} {mask} ."]}}
        train_generations(tmp_path / "rows", tmp_path / "texts", loaded.path, one, tmp_path / "other")
