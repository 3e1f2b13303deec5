"""Escalation: the linear head is an ordinary one, and more is trained only where held-out rows say that it pays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.base.errors import SettingsError
from encodery.finetune import auto as escalation
from encodery.finetune.auto import auto, fit_logistic_regression, improves
from encodery.finetune.calibration import softmax
from encodery.finetune.predict import Predictor
from encodery.model.load import LoadedModel, load_model

pytest.importorskip("sklearn")
SMALL: dict[str, Any] = {"epochs": 6, "optim": {"lr": 5e-3}, "train": {"threads": 1, "precision": "fp32", "evals": 1}}


def write(file: Path, rows: dict[str, list[Any]]) -> Path:
    lines = [json.dumps(dict(zip(rows, values, strict=True))) for values in zip(*rows.values(), strict=True)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_what_pays() -> None:
    before = np.arange(200) % 4 > 0
    assert not improves(before, before)
    assert improves(before, np.ones(200, bool))
    after = before.copy()
    after[:4] = True
    assert not improves(before, after), "one row in two hundred is less than a point"
    rng = np.random.default_rng(0)
    assert not improves(rng.random(100) < 0.5, rng.random(100) < 0.52)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_fitted_head_is_scikit_learns(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    vectors = rng.normal(3, 2, (90, 5))
    truth = (vectors[:, 0] + rng.normal(size=90) > 3).astype(int) + (vectors[:, 1] > 3) * (classes - 2)
    weight, bias = fit_logistic_regression(vectors, truth, 1.0)
    assert weight.shape == (classes, 5)
    scaled = StandardScaler().fit_transform(vectors)
    expected = LogisticRegression(C=1.0, max_iter=2000).fit(scaled, truth).predict_proba(scaled)
    np.testing.assert_allclose(softmax(vectors @ weight.T + bias), expected, atol=1e-3)


def test_where_frozen_states_suffice_nothing_else_is_trained(
    tmp_path: Path, loaded: LoadedModel, rows: Callable[..., dict[str, list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    tried: list[str] = []

    def as_good(task: str, over: Any, loaded_model: LoadedModel, folds: Any) -> np.ndarray:
        tried.append(over["adapt"]["is"])
        return np.ones(sum(len(fold.heldout["label"]) for fold in folds), bool)

    monkeypatch.setattr(escalation, "_cross_validate", as_good)
    file = write(tmp_path / "rows.jsonl", rows("classify", 200))
    result = auto("classify", file, loaded.path, SMALL, tmp_path / "run", messages.append)
    assert result.stage == "linear"
    assert result.accuracy["linear"] > 0.95
    assert tried == ["lora"]
    assert result.metrics["tuned_dev_accuracy"] > 0.95
    answers = Predictor.from_model(load_model(tmp_path / "run"), "cpu").predict(["one red cat", "six blue"]).answers
    assert [answer["prediction"] for answer in answers] == ["red", "blue"]


@pytest.mark.slow
def test_where_training_pays_it_is_done(
    tmp_path: Path, loaded: LoadedModel, rows: Callable[..., dict[str, list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    trained = escalation._cross_validate

    def judged(task: str, over: Any, loaded_model: LoadedModel, folds: Any) -> np.ndarray:
        """LoRA is as good as it is, the whole model hopeless."""
        tried.append(over.get("adapt", {}).get("is", "full"))
        result = trained(task, over, loaded_model, folds)
        return result if tried[-1] == "lora" else np.zeros(len(result), bool)

    monkeypatch.setattr(escalation, "_cross_validate", judged)
    monkeypatch.setattr(escalation, "INVERSE_REGULARISATION", (1e-9,))  # a linear head that can tell next to nothing
    file = write(tmp_path / "rows.jsonl", rows("classify", 120))
    result = auto("classify", file, loaded.path, {**SMALL, "optim": {"lr": 2e-2}}, tmp_path / "run")
    assert tried == ["lora", "full"]
    assert result.stage == "lora"
    assert result.accuracy["lora"] > result.accuracy["linear"]
    assert result.metrics["steps"] > 0
    assert Predictor.from_model(load_model(tmp_path / "run"), "cpu").predict(["one red"]).answers


def test_unsupported_tasks_are_refused(tmp_path: Path, loaded: LoadedModel) -> None:
    file = write(tmp_path / "rows.jsonl", {"text": ["a", "b"], "label": ["x", "y"]})
    for task, over in (("regress", {}), ("classify", {"task": {"head_dense": True}})):
        with pytest.raises(SettingsError, match="auto: chooses between stages for classify and pair"):
            auto(task, file, loaded.path, over, tmp_path / "run")
    with pytest.raises(SettingsError, match="adapt: is chosen by"):
        auto("classify", file, loaded.path, {"adapt": "lora"}, tmp_path / "run")
    with pytest.raises(SettingsError, match="too few rows of each class"):
        auto("classify", file, loaded.path, {}, tmp_path / "run")
