"""The one loop: whatever learns runs here, step by step, until its budget is spent or it is asked to stop.

A step: hooks, the job's micro-batches, forward and backward, gradients over ranks, clipping, the optimiser, hooks, a
line in the log. Between steps, on values that all ranks share: the clock, the wish to stop, held-out scores (within
their share of the time), checkpoints. A run that ends saves its checkpoint first, then the model, then its last score.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encodery.base.artifact import Artifact, atomic_write, seal
from encodery.base.errors import UserError
from encodery.base.schedule import Schedule
from encodery.train import checkpoint
from encodery.train.best_weights import BestWeights
from encodery.train.budget import Budget
from encodery.train.checkpoint import Snapshot
from encodery.train.clip import GuardedStep, can_skip_on_device
from encodery.train.clock import Clock
from encodery.train.diagnostics import Diagnostics
from encodery.train.display import Display
from encodery.train.distributed import DistributedContext
from encodery.train.expected_loss import JUDGED_FROM
from encodery.train.hooks import Hook, TrainState
from encodery.train.interrupts import catch_signals
from encodery.train.job import Job, StepBatches
from encodery.train.optim import Optimizer, set_lr
from encodery.train.optimizer_offload import offload_optimizer
from encodery.train.precision import NumberFormat, autocast, initial_loss_scale, set_linear_format
from encodery.train.settings import TrainSettings
from encodery.train.sharding import gathered, unsharded
from encodery.train.step import forward_backward
from encodery.train.step_log import Line, StepLog

KIND = "run"
MODEL, METRICS, RECIPE = "model", "metrics.json", "recipe.json"
MAX_ROLLBACKS = 3  # times a run that diverges goes back before it ends
FINAL_EVAL_FACTOR = 4  # the last score looks at so many times eval_tokens


@dataclass(frozen=True)
class RunResult:
    """How a run ended: `finished`, or else stopped before its budget was spent and ready to be resumed."""

    folder: Path
    finished: bool
    step: int
    tokens: int
    elapsed: float
    metrics: dict[str, Any]


class Loop:
    """A run under way, in `folder`. `facts` are figures known from the start (parameters, peak, machine)."""

    def __init__(
        self,
        job: Job,
        folder: Path,
        settings: TrainSettings,
        optim: Optimizer,
        hooks: Sequence[Hook],
        distributed: DistributedContext,
        display: Display,
        number_format: NumberFormat,
        facts: dict[str, Any],
    ) -> None:
        self.job, self.folder, self.settings, self.distributed, self.display = (
            job,
            folder,
            settings,
            distributed,
            display,
        )
        self.number_format, self.facts, self.peak_flops = number_format, facts, float(facts.get("matmul_peak", 0.0))
        set_linear_format(job.module, number_format)
        self.device = next(job.module.parameters()).device
        self.optimizer = optim.build(job.module, job.lr_scale)
        if settings.optimizer_offload:
            offload_optimizer(self.optimizer)
        self.hooks = [hook.build(job.module) for hook in hooks]
        late = (
            self.device.type != "cpu"
            and initial_loss_scale(number_format) == 1.0
            and can_skip_on_device(self.optimizer)
        )
        self.guard = GuardedStep(settings.clip, loss_scale=initial_loss_scale(number_format), deferred=late)
        self.clock = Clock(Budget.parse(settings.budget))
        self.journal = StepLog(folder, distributed, display.show, deferred=self.device.type != "cpu")
        self.checkpoint_every = Budget.parse(settings.checkpoint_every)
        self.saved_at = (0.0, 0, 0)
        self.eval_seconds = self.eval_cost = 0.0
        self.next_eval = 1
        self.branch_at = decay_start(settings.lr_schedule) if settings.keep_pre_decay_checkpoint else None
        self.last_score: dict[str, float] = {}
        self.best = BestWeights()
        self.flops = 0.0
        self.lr_factor = 0.0
        self.diagnostics, self.diagnosed = Diagnostics(self.device.type), False

    def resume(self, snapshot: Snapshot) -> None:
        """Go on from a checkpoint. Raises `CheckpointError` if it is another run's."""
        state = snapshot.state
        checkpoint.restore(snapshot, self.job.module, self.optimizer, self.hooks)
        self.job.load_state(state["job"])
        self.clock.load_state(state["clock"])
        self.guard.load_state(state["guard"])
        self.eval_seconds, self.eval_cost, self.next_eval = state["evals"]
        self.flops, self.last_score, self.lr_factor = state["flops"], state["last_score"], state["factor"]
        if "doctor" in state:
            self.diagnostics.load_state(state["doctor"])
        self.best = BestWeights.from_state(state["best"], snapshot.tensors.get(checkpoint.BEST, {}))
        self.saved_at = (self.clock.earlier_seconds, self.clock.tokens, self.clock.step)
        if state["pinned"]:
            self.branch_at = None

    def run(self) -> RunResult:
        """Run until the budget is spent, or until SIGINT or SIGTERM asks for an end; saves either way."""
        self.job.module.train()
        with catch_signals() as interrupts, contextlib.closing(self.journal), self.display:
            self.clock.start()
            while True:
                elapsed, stop = self._agree(bool(interrupts.signal_name))
                if stop or self._done(elapsed):
                    break
                self._between(elapsed)
                if not self._settled:
                    self._step(elapsed)
            self.journal.flush()
            self.guard.flush()
            if self.saved_at[2] != self.clock.step or not checkpoint.list_checkpoints(self.folder):
                self._save(elapsed)
            finished = self._done(elapsed)
            figures = self._finish() if finished else {}
        if finished and self.distributed.is_main:
            self._seal(figures)
        self.distributed.barrier()
        return RunResult(self.folder, finished, self.clock.step, self.clock.tokens, self.clock.elapsed, figures)

    def _done(self, elapsed: float) -> bool:
        return self._settled or self.clock.done(elapsed)

    @property
    def _settled(self) -> bool:
        """Whether the score has stopped rising for as long as the settings have patience."""
        return bool(self.settings.patience) and self.best.scores_since >= self.settings.patience

    def _agree(self, stop: bool) -> tuple[float, bool]:
        """Rank 0's clock on every rank, and whether any of them was asked to stop."""
        clock = self.clock
        mine = (clock.elapsed, clock.step_seconds, self.eval_seconds, self.eval_cost)
        agreed, stop = self.distributed.synchronise(mine, stop)
        elapsed, clock.step_seconds, self.eval_seconds, self.eval_cost = agreed
        return elapsed, stop

    def _progress(self, elapsed: float) -> float:
        return self.clock.train_state(elapsed).progress

    def _between(self, elapsed: float) -> None:
        """What is due between two steps."""
        settings, progress = self.settings, self._progress(elapsed)
        if settings.evals and progress * settings.evals >= self.next_eval:
            affordable = self.eval_seconds + self.eval_cost <= settings.eval_time_fraction * elapsed
            if affordable:
                self._score(settings.eval_tokens)
                self.next_eval = int(progress * settings.evals) + 1
        now = (elapsed, self.clock.tokens, self.clock.step)
        planned = round(settings.batch_tokens(progress))
        if (
            self.branch_at is not None
            and self.clock.step
            and self.clock.next_step_progress(elapsed, planned) >= self.branch_at
        ):
            self.branch_at = None
            self._save(elapsed, pinned=True)
        elif (
            self.checkpoint_every.used(*now) - self.checkpoint_every.used(*self.saved_at)
            >= self.checkpoint_every.amount
        ):
            self.guard.flush()
            if not self.guard.consecutive_skips:
                self._save(elapsed)

    def _step(self, elapsed: float) -> None:
        start, settings = time.monotonic(), self.settings
        moment = self.clock.train_state(elapsed)
        for hook in self.hooks:
            hook.before_step(moment)
        planned = round(settings.batch_tokens(moment.progress))
        progress = self.clock.next_step_progress(elapsed, planned)
        length = None if settings.seq_len_schedule is None else round(settings.seq_len_schedule(progress))
        with self.diagnostics.timed("data"):
            work = self.job.batches(self.clock.step, progress, planned, length)
        self.lr_factor = settings.lr_schedule(progress)
        set_lr(self.optimizer, self.lr_factor)
        self.optimizer.zero_grad(set_to_none=True)
        with self.diagnostics.timed("compute"):
            terms = forward_backward(
                self.job,
                work,
                self.distributed,
                self.number_format,
                settings.seed,
                self.clock.step,
                self.guard.loss_scale,
            )
        with self.diagnostics.timed("update"):
            norm, taken = self._update()
        seconds = time.monotonic() - start
        self.clock.record_step(seconds, work.tokens)
        self.flops += work.flops
        self.diagnostics.count_step(work.flops)
        if not self.diagnosed and self.diagnostics.ready:
            self.diagnosed = True
            self.display.warn(self.diagnostics.summary(self.peak_flops))
        after = self.clock.train_state(elapsed + seconds)
        for hook in self.hooks if taken else ():
            hook.after_step(after)
        self.journal.step(self._line(after, work, seconds, norm, progress), terms)

    def _update(self) -> tuple[float | Tensor, bool]:
        """Clip and step. Where the run has diverged, weights and moments go back to the last checkpoint, once or a few
        times, and what follows in the data is tried instead (arXiv:2204.02311, section 5.1)."""
        try:
            return self.guard.step(self.optimizer)
        except UserError:
            found = last_checkpoint(self.folder, self.distributed, self.display)
            if found is None or self.guard.rollbacks >= MAX_ROLLBACKS:
                raise
        checkpoint.restore(found[1], self.job.module, self.optimizer, self.hooks)
        self.guard.rollbacks, self.guard.consecutive_skips = self.guard.rollbacks + 1, 0
        self.display.warn(
            f"Gradients were not finite for {self.guard.max_consecutive_skips} steps in a row: the weights go back to those of "
            f"{found[0].name}, and the run goes on with the data that follow."
        )
        return math.nan, False

    def _line(self, now: TrainState, work: StepBatches, seconds: float, norm: float | Tensor, progress: float) -> Line:
        line: Line = {
            "step": now.step,
            "tokens": now.tokens,
            "elapsed": round(now.elapsed, 4),
            "progress": now.progress,
        }
        line |= {
            "lr": max(group["peak_lr"] for group in self.optimizer.param_groups) * self.lr_factor,
            "grad_norm": norm,
        }
        if self.peak_flops:
            line["mfu"] = round(work.flops / seconds / self.peak_flops, 4)
        line |= {
            "tokens_per_s": round(work.tokens / seconds, 1),
            **self.job.schedule_values(progress),
            **self.job.metrics(),
        }
        if self.guard.skipped:
            line |= {"skipped": self.guard.skipped, "rollbacks": self.guard.rollbacks}
        for hook in self.hooks:
            line |= hook.metrics()
        return line

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Time that is not spent on steps."""
        start = time.monotonic()
        yield
        self.clock.overhead_seconds += time.monotonic() - start

    def _score(self, tokens: int, logged: bool = True) -> dict[str, float]:
        """Held-out figures with the weights that are to be used, in the log and on the display; the best are kept."""
        start = time.monotonic()
        with self._aside(), contextlib.ExitStack() as stack:
            self.journal.flush()
            for hook in self.hooks:
                stack.enter_context(hook.evaluation_weights())
            stack.enter_context(unsharded(self.job))
            with autocast(self.number_format, self.device):
                score = self.job.score(tokens)
            goal = self.job.selection_metric(score) if logged else None
            if goal is not None:
                self.best.update(goal, self.clock.step, self.job.module)
        self.last_score = {f"heldout_{k}" if k in ("loss", "accuracy") else k: v for k, v in score.items()}
        self.eval_cost = time.monotonic() - start
        self.eval_seconds += self.eval_cost
        if self.last_score and logged:
            now = self.clock.train_state(self.clock.elapsed)
            with self._aside():
                self._judge(now)
            line: Line = {"step": now.step, "tokens": now.tokens, "elapsed": round(now.elapsed, 4)}
            self.journal.write({**line, "progress": now.progress, **_without_counts(self.last_score)})
        return self.last_score

    def _judge(self, now: TrainState) -> None:
        """Say it, once, where the held-out loss is not what it usually is after so many tokens."""
        if "heldout_loss" not in self.last_score or now.progress < JUDGED_FROM or not self.distributed.is_main:
            return
        said = self.diagnostics.check_loss(
            self.last_score["heldout_loss"], self.job.expected_loss(now.tokens, now.step)
        )
        if said is not None:
            self.display.warn(said)

    def _save(self, elapsed: float, pinned: bool = False) -> None:
        """Write a checkpoint, then remove what is too old. `elapsed` is what all ranks agreed on."""
        with self._aside():
            self.journal.flush()
            self.saved_at = (elapsed, self.clock.tokens, self.clock.step)
            if self.distributed.is_main or self.distributed.mesh is not None:
                snapshot = checkpoint.capture(self.job.module, self.optimizer, self.hooks)
                snapshot.state |= self._state()
                snapshot.tensors |= {checkpoint.BEST: self.best.tensors} if self.best.tensors else {}
                of = {"job": type(self.job).__name__}
                checkpoint.write(self.folder, self.clock.step, snapshot, of, pinned, self.distributed)
            if self.distributed.is_main:
                checkpoint.prune(self.folder, self.settings.keep)

    def _state(self) -> dict[str, Any]:
        return {
            "identity": self.job.identity(),
            "clock": self.clock.state(),
            "job": self.job.state(),
            "guard": self.guard.state(),
            "evals": [self.eval_seconds, self.eval_cost, self.next_eval],
            "flops": self.flops,
            "last_score": self.last_score,
            "doctor": self.diagnostics.state(),
            "best": self.best.state(),
            "seed": self.settings.seed,
            "precision": self.number_format,
            "threads": torch.get_num_threads(),
            "world": self.distributed.world,
            "factor": self.lr_factor,
            "stable": self.lr_factor == self.settings.lr_schedule.maximum,
            "pinned": self.branch_at is None,
        }

    def _finish(self) -> dict[str, Any]:
        """The model first, then its figures: a crash in the last score costs no training. Where the job names a goal,
        the last weights are scored before that, and the best of all are what is saved."""
        if self.best.tensors:
            if self.best.last_scored_step != self.clock.step:
                self._score(self.settings.eval_tokens)
            self.best.restore(self.job.module)
            self.hooks = []
        with self._aside(), contextlib.ExitStack() as stack:
            for hook in self.hooks:
                stack.enter_context(hook.evaluation_weights())
            stack.enter_context(gathered(self.job))
            if self.distributed.is_main:
                self.job.save(self.folder / MODEL, self._figures())
        # The curve's last point is of the tokens of all its points; the figures look at more.
        if not self.best.tensors:
            self._score(self.settings.eval_tokens)
        self._score(self.settings.eval_tokens * FINAL_EVAL_FACTOR, logged=False)
        figures = self._figures()
        if self.distributed.is_main:
            Artifact.open(self.folder / MODEL).add_metrics(figures)
            atomic_write(self.folder / METRICS, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
        return figures

    def _figures(self) -> dict[str, Any]:
        clock = self.clock
        busy = max(clock.elapsed - clock.overhead_seconds, 1e-9)
        figures: dict[str, Any] = {**self.facts, **self.last_score, **self.job.metrics()}
        figures |= {
            "tokens": clock.tokens,
            "steps": clock.step,
            "seconds": clock.elapsed,
            "eval_seconds": self.eval_seconds,
        }
        if self.best.metric is not None:
            figures |= {"best_step": self.best.step, "best_metric": self.best.metric}
        figures |= {
            "tokens_per_s": clock.tokens / busy,
            "skipped": self.guard.skipped,
            "rollbacks": self.guard.rollbacks,
            "budget": str(clock.budget),
        }
        if self.peak_flops and self.flops:
            figures["mfu"] = self.flops / busy / self.peak_flops
        if self.diagnostics.ready:
            figures |= {
                "data_fraction": self.diagnostics.time_fraction("data"),
                "bottleneck": self.diagnostics.summary(self.peak_flops),
            }
        if self.diagnostics.loss_assessment:
            figures["loss_assessment"] = self.diagnostics.loss_assessment
        return figures

    def _seal(self, figures: dict[str, Any]) -> None:
        """Make the run folder an artifact. Checkpoints stay outside it: they may be removed."""
        recipe = json.loads((self.folder / RECIPE).read_text(encoding="utf-8"))
        parents = Artifact.open(self.folder / MODEL).manifest.parents
        opened = {name: Artifact.open(parent["path"]) for name, parent in parents.items()}
        seal(self.folder, KIND, recipe, opened, figures, mutable_folders=(checkpoint.FOLDER,))


def last_checkpoint(folder: Path, distributed: DistributedContext, display: Display) -> tuple[Path, Snapshot] | None:
    """The last sound checkpoint: rank 0 looks, and all read the one it found."""
    path = checkpoint.latest(folder, display.warn) if distributed.is_main else None
    (step,), _ = distributed.synchronise([-1 if path is None else checkpoint.step_of(path)], False)
    if step < 0:
        return None
    path = checkpoint.checkpoint_folder(folder, int(step))
    return path, checkpoint.read(path, whole_tensors=distributed.mesh is None)


def decay_start(schedule: Schedule) -> float | None:
    """Where the last falling phase begins, if the phase before it is constant: a decay can branch off there."""
    phases = schedule.phases
    if len(phases) < 2 or not phases[-1].end < phases[-1].start or phases[-2].start != phases[-2].end:
        return None
    return 1.0 - phases[-1].fraction


def _without_counts(score: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in score.items() if name not in ("tokens", "predicted")}
