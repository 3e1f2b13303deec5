"""Jobs over examples: every example as often, equal over micro-batches, the best weights kept, patience, resume."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from encodery.base.artifact import create_artifact
from encodery.base.errors import CheckpointError, EmptyInput, SettingsError
from encodery.base.settings import decode
from encodery.model.shape import Batch
from encodery.objectives import Count, LossTerm
from encodery.tokens.shuffle import Integers
from encodery.train import checkpoint
from encodery.train.best_weights import BestWeights
from encodery.train.display import Display
from encodery.train.distributed import DistributedContext
from encodery.train.examples import ExampleJob, settings_for_epochs
from encodery.train.execution.plain import Plain
from encodery.train.loop import Loop
from encodery.train.optim.adamw import AdamW
from encodery.train.settings import TrainSettings
from encodery.train.step import forward_backward

SIZES = np.array([3, 9, 4, 30, 7, 5, 12, 6, 8, 11, 2])


class Walk(ExampleJob):
    """A toy: one weight, drawn towards 1; `scores` are what its held-out scores say, one after the other."""

    def __init__(
        self, batch: int = 4, team: DistributedContext | None = None, scores: tuple[float, ...] = (), **train: Any
    ) -> None:
        self.module: nn.Module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.module.weight)  # type: ignore[arg-type]
        self.scores, self.weights, self.saved = scores, list[float](), 0.0
        settings = decode(TrainSettings, {"precision": "fp32", "eval_time_fraction": 0.9, **train})
        self.set_examples(SIZES, batch, settings, team or DistributedContext())

    def collate(self, indices: Integers, seed: int) -> Batch:
        ids = torch.from_numpy(np.repeat(indices, SIZES[indices]))
        cu_seqlens = torch.from_numpy(np.concatenate([[0], SIZES[indices].cumsum()]).astype(np.int32))
        return Batch(ids, cu_seqlens, int(SIZES[indices].max()))

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        return {"square": len(batch)}

    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        x = torch.ones(len(batch), 1)
        return {"square": LossTerm((self.module(x) - 1).square().sum(), len(batch))}

    def score(self, tokens: int) -> dict[str, float]:
        self.weights.append(next(self.module.parameters()).item())
        return {"f1": self.scores[min(len(self.weights), len(self.scores)) - 1]} if self.scores else {}

    def selection_metric(self, score: Mapping[str, float]) -> float | None:
        return score.get("f1")

    def save(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        self.saved = next(self.module.parameters()).item()
        with create_artifact(folder, "model", {}) as draft:
            (draft.path / "weight").write_text(str(self.saved), encoding="utf-8")

    def identity(self) -> dict[str, Any]:
        return {}

    @classmethod
    def rebuild(cls, recipe: Mapping[str, Any], distributed: DistributedContext, device: torch.device) -> Walk:
        return cls()


def seen(job: ExampleJob, steps: int) -> list[int]:
    """The examples of so many steps of this rank, in order."""
    found: list[int] = []
    for step in range(steps):
        for micro in job.batches(step, 0.0, 0, None).micro_batches:
            found += micro.batch.ids[micro.batch.cu_seqlens[:-1].long()].tolist()
    return found


@pytest.mark.parametrize("batch", [1, 4, 11, 25])
def test_every_example_is_seen_equally_often(batch: int) -> None:
    job = Walk(batch)
    found = seen(job, 11 * 4 // batch if batch != 25 else 11)
    counts = np.bincount(found, minlength=11)
    assert len(found) == (44 if batch != 25 else 275)
    assert counts.min() == counts.max()
    assert job.metrics()["epoch"] == len(found) / 11


def test_epochs_differ_in_order_and_seeds_too() -> None:
    job = Walk(11)
    first, second = seen(job, 1), seen(job, 1)
    assert sorted(first) == sorted(second)
    assert [Walk(1)._chosen(0, 11).tolist()] != [Walk(1)._chosen(11, 11).tolist()]
    assert Walk(1)._chosen(0, 11).tolist() != Walk(1, seed=1)._chosen(0, 11).tolist()


def test_micro_batches_hold_all_examples_and_few_tokens() -> None:
    whole, parted = Walk(8), Walk(8, micro_batch_tokens=40)
    works = whole.batches(0, 0.0, 0, None), parted.batches(0, 0.0, 0, None)
    assert works[0].tokens == works[1].tokens == sum(micro.batch.tokens for micro in works[1].micro_batches)
    assert len(works[1].micro_batches) > 1
    grads = []
    for job, work in zip((whole, parted), works, strict=True):
        forward_backward(
            Plain().build(job, DistributedContext(), torch.device("cpu")), work, DistributedContext(), "fp32", 0, 0
        )
        grads.append(next(job.module.parameters()).grad)
    torch.testing.assert_close(*grads)


def test_ranks_share_the_examples_of_one_process() -> None:
    ranks = [Walk(6, DistributedContext(rank, 2)) for rank in range(2)]
    found = [seen(job, 3) for job in ranks]
    assert sorted(found[0] + found[1]) == sorted(seen(Walk(6), 3))
    ranks[0].in_batch = True
    assert len(ranks[0].batches(0, 0.0, 0, None).micro_batches) == 1


def test_state_goes_on_where_it_stood() -> None:
    job, other = Walk(4), Walk(4)
    seen(job, 5)
    other.load_state(job.state())
    assert seen(job, 4) == seen(other, 4)
    with pytest.raises(CheckpointError, match="had 12 examples, here are 11"):
        other.load_state({"position": 0, "examples": 12})


def test_epochs_become_steps() -> None:
    assert settings_for_epochs(SIZES, 4, 3) == {"budget": "8steps", "batch_tokens": 35}
    assert settings_for_epochs([5], 32, 0.5)["budget"] == "1steps"
    with pytest.raises(SettingsError, match="epochs = 0"):
        settings_for_epochs(SIZES, 4, 0)
    with pytest.raises(EmptyInput):
        settings_for_epochs([], 4, 1)


def test_no_examples_and_too_few_for_the_ranks_are_refused() -> None:
    with pytest.raises(EmptyInput):
        Walk().set_examples([], 4, TrainSettings(), DistributedContext())
    with pytest.raises(SettingsError, match="batch = 1"):
        Walk(1, DistributedContext(0, 2))


def loop(job: Walk, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    """A loop over the job, whose run is not sealed as an artifact."""
    monkeypatch.setattr(Loop, "_seal", lambda self, figures: None)
    folder.mkdir(exist_ok=True)
    return Loop(job, folder, job.train, AdamW(lr=0.1), (), DistributedContext(), Display(), "fp32", {})


def test_the_best_weights_are_saved_and_patience_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Walk(4, scores=(0.1, 0.9, 0.5, 0.6, 0.2, 0.95), budget="500steps", evals=500, patience=3)
    result = loop(job, tmp_path, monkeypatch).run()
    assert result.finished
    assert result.step < 500
    assert result.metrics["best_metric"] == 0.9
    assert job.weights[1] != job.weights[4]
    assert job.saved == job.weights[1], "the second score was the best of five, after which patience was at its end"


def test_without_patience_the_run_goes_on_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Walk(4, scores=(0.9, 0.5), budget="20steps", evals=20)
    result = loop(job, tmp_path, monkeypatch).run()
    assert result.step == 20
    assert job.saved == job.weights[0]


def test_without_a_goal_the_last_weights_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Walk(4, budget="6steps")
    result = loop(job, tmp_path, monkeypatch).run()
    assert "best_step" not in result.metrics
    assert job.saved == next(job.module.parameters()).item() != 0.0


def test_checkpoints_hold_the_best_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Walk(4, scores=(0.9, 0.5), budget="8steps", evals=8)
    loop(job, tmp_path, monkeypatch).run()
    snapshot = checkpoint.read(checkpoint.verify_checkpoint(checkpoint.list_checkpoints(tmp_path)[-1]))
    best = BestWeights.from_state(snapshot.state["best"], snapshot.tensors["best"])
    assert best.metric == 0.9
    assert best.tensors["weight"].item() == job.saved
    again = loop(Walk(4), tmp_path / "other", monkeypatch)
    with contextlib.closing(again.journal):
        again.resume(snapshot)
    assert again.best.state() == best.state()


def test_a_score_that_is_no_number_is_never_the_best() -> None:
    best, module = BestWeights(), nn.Linear(1, 1)
    best.update(0.5, 1, module)
    best.update(float("nan"), 2, module)
    assert (best.metric, best.scores_since) == (0.5, 1)
