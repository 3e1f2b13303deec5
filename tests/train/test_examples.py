"""Jobs over examples: every example as often, equal over micro-batches, the best weights kept, patience, resume."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

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
from encodery.train.display import SilentDisplay
from encodery.train.distributed import DistributedContext
from encodery.train.example_plan import settings_for_epochs
from encodery.train.examples import ExampleJob
from encodery.train.execution.plain import Plain
from encodery.train.hooks import Hook
from encodery.train.lengths import attended_length, sample_tokens
from encodery.train.loop import Loop
from encodery.train.optim.adamw import AdamW
from encodery.train.recipe import Recipe
from encodery.train.settings import TrainSettings
from encodery.train.step import forward_backward

SIZES = np.array([3, 9, 4, 30, 7, 5, 12, 6, 8, 11, 2])
CPU, SINGLE = torch.device("cpu"), DistributedContext()


@dataclass(frozen=True)
class Settings:
    """The settings of a toy job."""

    train: TrainSettings
    optim: AdamW = field(default_factory=lambda: AdamW(lr=0.1))
    hooks: tuple[Hook, ...] = ()


class ToyJob(ExampleJob):
    """One weight that is pulled towards 1; `scores` are its held-out scores, one after the other."""

    settings_type: ClassVar[type] = Settings

    def __init__(
        self,
        batch_size: int = 4,
        distributed: DistributedContext = SINGLE,
        scores: tuple[float, ...] = (),
        **train: Any,
    ) -> None:
        self.module: nn.Module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.module.weight)  # type: ignore[arg-type]
        self.scores, self.weights, self.saved = scores, list[float](), 0.0
        settings = decode(TrainSettings, {"precision": "fp32", "eval_time_fraction": 0.9, **train})
        self.set_examples(SIZES, batch_size, settings, distributed)

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
    def from_recipe(cls, recipe: Recipe[Any], distributed: DistributedContext, device: torch.device) -> ToyJob:
        return cls()


def examples_of(job: ExampleJob, steps: int) -> list[int]:
    """The examples of this rank in a number of steps, in order."""
    examples: list[int] = []
    for step in range(steps):
        for micro in job.batches(step, 0.0, 0, None).micro_batches:
            examples += micro.batch.ids[micro.batch.cu_seqlens[:-1].long()].tolist()
    return examples


@pytest.mark.parametrize("batch_size", [1, 4, 11, 25])
def test_every_example_is_seen_equally_often(batch_size: int) -> None:
    job = ToyJob(batch_size)
    examples = examples_of(job, 11 * 4 // batch_size if batch_size != 25 else 11)
    counts = np.bincount(examples, minlength=11)
    assert len(examples) == (44 if batch_size != 25 else 275)
    assert counts.min() == counts.max()
    assert job.metrics()["epoch"] == len(examples) / 11


def test_epochs_and_seeds_differ_in_order() -> None:
    job = ToyJob(11)
    first, second, other_seed = examples_of(job, 1), examples_of(job, 1), examples_of(ToyJob(1, seed=1), 11)
    assert sorted(first) == sorted(second) == sorted(other_seed)
    in_order = examples_of(ToyJob(1), 22)
    assert in_order[:11] != in_order[11:]
    assert in_order[:11] != other_seed


def test_micro_batches_hold_all_examples_and_few_tokens() -> None:
    whole, parted = ToyJob(8), ToyJob(8, micro_batch_tokens=40)
    steps = whole.batches(0, 0.0, 0, None), parted.batches(0, 0.0, 0, None)
    assert steps[0].tokens == steps[1].tokens == sum(micro.batch.tokens for micro in steps[1].micro_batches)
    assert len(steps[1].micro_batches) > 1
    grads = []
    for job, batches in zip((whole, parted), steps, strict=True):
        forward_backward(Plain().build(job, SINGLE, CPU), batches, SINGLE, "fp32", 0, 0)
        grads.append(next(job.module.parameters()).grad)
    torch.testing.assert_close(*grads)


def test_ranks_divide_the_examples_of_one_process() -> None:
    ranks = [ToyJob(6, DistributedContext(rank, 2)) for rank in range(2)]
    examples = [examples_of(job, 3) for job in ranks]
    assert sorted(examples[0] + examples[1]) == sorted(examples_of(ToyJob(6), 3))
    ranks[0].in_batch = True
    assert len(ranks[0].batches(0, 0.0, 0, None).micro_batches) == 1


def test_a_loaded_state_continues_the_series_of_examples() -> None:
    job, other = ToyJob(4), ToyJob(4)
    examples_of(job, 5)
    other.load_state(job.state())
    assert examples_of(job, 4) == examples_of(other, 4)
    with pytest.raises(CheckpointError, match="made with 12 examples; the data has 11"):
        other.load_state({"position": 0, "examples": 12})


def test_epochs_become_steps() -> None:
    assert settings_for_epochs(SIZES, 4, 3) == {"budget": "8steps", "batch_tokens": 35}
    assert settings_for_epochs([5], 32, 0.5)["budget"] == "1steps"
    with pytest.raises(SettingsError, match="epochs = 0"):
        settings_for_epochs(SIZES, 4, 0)
    with pytest.raises(EmptyInput):
        settings_for_epochs([], 4, 1)


def test_no_examples_and_fewer_than_ranks_are_refused() -> None:
    with pytest.raises(EmptyInput):
        ToyJob().set_examples([], 4, TrainSettings(), SINGLE)
    with pytest.raises(SettingsError, match="batch = 1"):
        ToyJob(1, DistributedContext(0, 2))


def make_loop(job: ToyJob, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    """A loop over the job, whose run does not become an artifact."""
    monkeypatch.setattr(Loop, "_seal", lambda self, metrics: None)
    folder.mkdir(exist_ok=True)
    execution = Plain().build(job, SINGLE, CPU)
    return Loop(execution, folder, Settings(job.train), SINGLE, SilentDisplay(), "fp32", {})


def test_the_best_weights_are_saved_and_patience_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ToyJob(4, scores=(0.1, 0.9, 0.5, 0.6, 0.2, 0.95), budget="500steps", evals=500, patience=3)
    result = make_loop(job, tmp_path, monkeypatch).run()
    assert result.finished
    assert result.step < 500
    assert result.metrics["best_metric"] == 0.9
    assert job.weights[1] != job.weights[4]
    assert job.saved == job.weights[1], "the second score was the best of five, after which patience ended the run"


def test_without_patience_the_run_uses_its_whole_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ToyJob(4, scores=(0.9, 0.5), budget="20steps", evals=20)
    result = make_loop(job, tmp_path, monkeypatch).run()
    assert result.step == 20
    assert job.saved == job.weights[0]


def test_without_a_selection_metric_the_last_weights_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ToyJob(4, budget="6steps")
    result = make_loop(job, tmp_path, monkeypatch).run()
    assert "best_step" not in result.metrics
    assert job.saved == next(job.module.parameters()).item() != 0.0


def test_checkpoints_hold_the_best_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ToyJob(4, scores=(0.9, 0.5), budget="8steps", evals=8)
    make_loop(job, tmp_path, monkeypatch).run()
    snapshot = checkpoint.read(checkpoint.verify_checkpoint(checkpoint.list_checkpoints(tmp_path)[-1]))
    best = BestWeights.from_state(snapshot.state["best"], snapshot.tensors["best"])
    assert best.metric == 0.9
    assert best.tensors["weight"].item() == job.saved
    resumed = make_loop(ToyJob(4), tmp_path / "other", monkeypatch)
    with contextlib.closing(resumed.log):
        resumed.resume(snapshot)
    assert resumed.best.state() == best.state()


def test_a_nan_score_is_never_the_best() -> None:
    best, module = BestWeights(), nn.Linear(1, 1)
    best.update(0.5, 1, module)
    best.update(float("nan"), 2, module)
    assert (best.metric, best.scores_since) == (0.5, 1)


def test_the_length_of_attention_is_the_mean_over_tokens() -> None:
    assert attended_length([16, 16]) == 16
    assert attended_length([8, 120]) == 112, "(64 + 14,400) / 128 = 113, to a multiple of 8"
    assert attended_length([]) == 0


def test_a_sample_holds_about_as_many_tokens_as_asked_for() -> None:
    lengths = np.full(100, 10)
    sample = sample_tokens(lengths, 200, seed=3)
    assert sample.tolist() == sorted(set(sample.tolist()))
    assert 20 <= len(sample) <= 21
    assert np.array_equal(sample, sample_tokens(lengths, 200, seed=3))
    assert not np.array_equal(sample, sample_tokens(lengths, 200, seed=4))
    assert len(sample_tokens(lengths, 10**6, seed=3)) == 100
