"""Single merge methods, and the verb `model merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.cli.__main__ import run
from encodery.merging import MergeMethod
from encodery.model.load import load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings

BASE = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])


def merged(*models: Tensor, **table: Any) -> Tensor:
    return decode(MergeMethod, table).merge({"w": BASE}, [{"w": model} for model in models])["w"]


def test_average_is_the_mean_and_may_include_the_base() -> None:
    one, other = BASE + 1, BASE + 4
    torch.testing.assert_close(merged(one, other, **{"is": "average"}), BASE + 2.5)
    torch.testing.assert_close(merged(one, other, **{"is": "average", "weights": [3.0, 1.0]}), BASE + 1.75)
    torch.testing.assert_close(merged(one, other, **{"is": "average", "base_weight": 2.0}), BASE + 1.25)


def test_task_arithmetic_adds_and_subtracts() -> None:
    one, other = BASE + 1, BASE + 4
    torch.testing.assert_close(merged(one, other, **{"is": "task_arithmetic", "scale": 0.5}), BASE + 2.5)
    torch.testing.assert_close(merged(one, **{"is": "task_arithmetic", "scale": 1.0, "weights": [-1.0]}), BASE - 1)


def test_dare_drops_a_fraction_and_keeps_the_mean() -> None:
    base = torch.zeros(100_000)
    part = decode(MergeMethod, {"is": "dare", "drop_rate": 0.9, "scale": 1.0})
    result = part.merge({"w": base}, [{"w": base + 1}])["w"]
    assert sorted(set(result.tolist())) == pytest.approx([0.0, 10.0])
    assert 0.095 < (result > 0).float().mean() < 0.105
    assert not torch.equal(part.merge({"w": base}, [{"w": base + 1}], seed=1)["w"], result)
    torch.testing.assert_close(merged(BASE + 1, BASE + 4, **{"is": "dare", "drop_rate": 0.0, "scale": 0.5}), BASE + 2.5)


def test_ties_by_hand() -> None:
    """arXiv:2306.01708, figure 1: trim, elect a sign by mass, and average the models that agree."""
    one = BASE + torch.tensor([3.0, -2.0, 0.1, 5.0, -1.0])
    other = BASE + torch.tensor([1.0, 4.0, 0.2, -6.0, -3.0])
    difference = merged(one, other, **{"is": "ties", "density": 0.8}) - BASE
    torch.testing.assert_close(difference, torch.tensor([2.0, 4.0, 0.0, -6.0, -2.0]))


def test_ties_keeps_the_largest_differences_and_applies_weights() -> None:
    one = BASE + torch.tensor([3.0, -2.0, 0.1, 5.0, -1.0])
    difference = merged(one, **{"is": "ties", "density": 0.2}) - BASE
    torch.testing.assert_close(difference, torch.tensor([0.0, 0.0, 0.0, 5.0, 0.0]))
    both = merged(BASE + 1, BASE + 4, **{"is": "ties", "density": 1.0, "weights": [3.0, 1.0]}) - BASE
    torch.testing.assert_close(both, torch.full((5,), 1.75))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"is": "average", "weights": [-1.0]}, "below 0"),
        ({"is": "average", "weights": [0.0]}, "not all 0"),
        ({"is": "dare", "drop_rate": 1.0}, "drop_rate"),
        ({"is": "ties", "density": 0.0}, "density"),
    ],
)
def test_invalid_settings_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        merged(BASE, **table)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ModelSettings(width=16, depth=1, heads=2, intermediate_size=16, vocab_size=30, max_length=16)
    places = [str(tmp_path / name) for name in ("base", "one", "other")]
    for seed, place in enumerate(places):
        save_model(place, build_model(settings, seed))
    out = tmp_path / "merged"
    rule = ["--method", "task_arithmetic", "scale=0.5", "weights=[1.0, 3.0]"]
    assert run(["model", "merge", *places[1:], "--base", places[0], "--out", str(out), *rule]) == 0, (
        capsys.readouterr().err
    )
    assert "2 models merged by task_arithmetic" in capsys.readouterr().out.replace("\n", " ")
    result = load_model(out)
    base, one, other = (load_model(place).model.state_dict() for place in places)
    for name, tensor in result.model.state_dict().items():
        expected = base[name] + 0.5 * (one[name] - base[name]) + 1.5 * (other[name] - base[name])
        torch.testing.assert_close(tensor, expected)
    assert result.settings["merging"]["weights"] == [1.0, 3.0]
    assert result.artifact is not None
    assert set(result.artifact.manifest.parents) == {"base", "model 1", "model 2"}
    assert (
        run(["model", "merge", *places[1:], "--base", places[0], "--out", str(tmp_path / "no"), "--method", "tie"]) == 2
    )
    assert "Did you mean 'ties'" in capsys.readouterr().err
    assert (
        run(["model", "merge", places[1], "--base", places[0], "--out", str(tmp_path / "no"), "--head", "elsewhere"])
        == 2
    )
    assert "is not one of the models" in capsys.readouterr().err


def test_a_merged_task_predicts_and_its_golden_outputs_are_recomputed(tmp_path: Path) -> None:
    """The head of one model on the merged encoder: its golden outputs are computed again, so that it can be loaded."""
    import json

    from encodery.finetune.predict import Predictor
    from encodery.tokens.kind.wordpiece import Wordpiece
    from encodery.tokens.tokenizer import Tokenizer

    texts = ["a warm and lovely day", "a cold and awful day", "lovely warm soup", "awful cold soup"] * 6
    rows = [{"text": f"{text} {i}", "label": "bad" if "cold" in text else "good"} for i, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    tokenizer = Tokenizer(Wordpiece().train(texts, 80))
    tokenizer.save(tmp_path / "tokenizer")
    settings = ModelSettings(
        width=16, depth=1, heads=2, intermediate_size=16, vocab_size=tokenizer.vocab_size, max_length=32
    )
    base = tmp_path / "base"
    save_model(base, build_model(settings, 0), tmp_path / "tokenizer")
    quick = ["train.budget=20steps", "train.threads=1", "train.precision=fp32", "optim.lr=0.01"]
    before = torch.get_num_threads()
    try:
        for adapt in ("lora", "bitfit"):
            made = [f"adapt={adapt}", "--model", str(base), "--out", str(tmp_path / adapt)]
            assert run(["finetune", "classify", str(tmp_path / "rows.jsonl"), *made, *quick]) == 0
    finally:
        torch.set_num_threads(before)
    both = [str(tmp_path / adapt) for adapt in ("lora", "bitfit")]
    out = tmp_path / "merged"
    assert run(["model", "merge", *both, "--head", both[0], "--out", str(out), "--base", str(base)]) == 0
    assert len(Predictor.from_model(load_model(out)).predict(["a lovely day"]).answers) == 1
    longer = tmp_path / "longer"
    assert run(["model", "edit", both[0], "--surgery", "lengthen", "max_length=64", "--out", str(longer)]) == 0
    answers = [Predictor.from_model(load_model(place)).predict(["a lovely day"]).answers for place in (both[0], longer)]
    assert answers[0] == answers[1]
    bare = tmp_path / "bare"
    assert run(["model", "merge", *both, "--out", str(bare), "--base", str(base)]) == 0
    assert "task" not in load_model(bare).settings
