"""The training loop: every job runs here, step by step, until its budget is spent or it is asked to stop.

A step: hooks, the job's micro-batches, forward and backward passes, gradients over ranks, clipping, the optimiser,
hooks, a line in the log. Between steps, on values that all ranks share: the clock, requests to stop, held-out scores
(within their fraction of the time), checkpoints. A run that ends saves its checkpoint first, then the model, then its
last score."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encodery.base.artifact import Artifact, atomic_write, seal
from encodery.base.errors import SettingsError, UserError
from encodery.base.schedule import Schedule
from encodery.train import checkpoint
from encodery.train.best_weights import BestWeights
from encodery.train.budget import Budget
from encodery.train.checkpoint import Snapshot
from encodery.train.clip import GuardedStep, can_skip_on_device
from encodery.train.clock import Clock
from encodery.train.diagnostics import JUDGED_FROM, Diagnostics
from encodery.train.display import Display
from encodery.train.distributed import DistributedContext
from encodery.train.execution import RunningExecution
from encodery.train.hooks import TrainState
from encodery.train.interrupts import catch_signals
from encodery.train.job import StepBatches
from encodery.train.optimizer_offload import offload_optimizer
from encodery.train.optimizer_state import set_lr
from encodery.train.precision import NumberFormat, autocast, initial_loss_scale, set_linear_format
from encodery.train.recipe import RECIPE, JobSettings
from encodery.train.resize import resize, restore_sizes, stored_sizes
from encodery.train.step import forward_backward
from encodery.train.step_log import Line, StepLog

KIND = "run"
MODEL, METRICS = "model", "metrics.json"
MAX_ROLLBACKS = 3  # a run that diverges again after as many rollbacks ends with an error
FINAL_EVAL_FACTOR = 4  # the last score uses this many times eval_tokens


@dataclass(frozen=True)
class RunResult:
    """How a run ended: `finished`, or stopped before its budget was spent and ready to be resumed."""

    folder: Path
    finished: bool
    step: int
    tokens: int
    elapsed: float
    metrics: dict[str, Any]


class Loop:
    """A run in progress, in `folder`. `facts`: metrics that are known from the start (parameters, matmul peak,
    machine)."""

    def __init__(
        self,
        execution: RunningExecution,
        folder: Path,
        settings: JobSettings,
        distributed: DistributedContext,
        display: Display,
        number_format: NumberFormat,
        facts: dict[str, Any],
    ) -> None:
        self.execution, self.job, self.folder, self.settings = execution, execution.job, folder, settings.train
        self.distributed, self.display, self.number_format, self.facts = distributed, display, number_format, facts
        self.peak_flops = float(facts.get("matmul_peak", 0.0))
        set_linear_format(self.job.module, number_format)
        self.device = next(self.job.module.parameters()).device
        if settings.optim is None:
            raise SettingsError("optim: the recipe names no optimiser.")
        self.optimizer = settings.optim.build(self.job.module, self.job.lr_scale)
        if self.settings.optimizer_offload:
            offload_optimizer(self.optimizer)
        self.hooks = [*(hook.build(self.job.module) for hook in settings.hooks), *self.job.hooks()]
        ahead_of_host = self.device.type != "cpu"
        scale = initial_loss_scale(number_format)
        deferred = ahead_of_host and scale == 1.0 and can_skip_on_device(self.optimizer)
        self.guard = GuardedStep(self.settings.clip, loss_scale=scale, deferred=deferred)
        self.clock = Clock(Budget.parse(self.settings.budget))
        self.log = StepLog(folder, distributed, display.show, deferred=ahead_of_host)
        self.checkpoint_every = Budget.parse(self.settings.checkpoint_every)
        self.saved_at = (0.0, 0, 0)
        self.eval_seconds = self.last_eval_seconds = 0.0
        self.next_eval = 1
        keeps = self.settings.keep_pre_decay_checkpoint
        self.decay_start = decay_start(self.settings.lr_schedule) if keeps else None
        self.last_score: dict[str, float] = {}
        self.best = BestWeights()
        self.flops = 0.0
        self.lr_factor = 0.0
        self.diagnostics, self.diagnosed = Diagnostics(self.device.type), False

    def resume(self, snapshot: Snapshot) -> None:
        """Continue from a checkpoint. Raises `CheckpointError` if it belongs to another run."""
        state = snapshot.state
        restore_sizes(self.job.module, state["layers"], self.optimizer, self.hooks)
        checkpoint.restore(snapshot, self.job.module, self.optimizer, self.hooks)
        self.job.load_state(state["job"])
        self.clock.load_state(state["clock"])
        self.guard.load_state(state["guard"])
        self.eval_seconds, self.last_eval_seconds, self.next_eval = state["evals"]
        self.flops, self.last_score, self.lr_factor = state["flops"], state["last_score"], state["lr_factor"]
        self.diagnostics.load_state(state["diagnostics"])
        self.best = BestWeights.from_state(state["best"], snapshot.tensors.get(checkpoint.BEST, {}))
        self.saved_at = (self.clock.earlier_seconds, self.clock.tokens, self.clock.step)
        if state["pre_decay_saved"]:
            self.decay_start = None

    def run(self) -> RunResult:
        """Run until the budget is spent or SIGINT or SIGTERM asks for an end; saves in both cases."""
        self.job.module.train()
        with catch_signals() as interrupts, contextlib.closing(self.log), self.display:
            self.clock.start()
            while True:
                elapsed, stop = self._synchronise(bool(interrupts.signal_name))
                if stop or self._done(elapsed):
                    break
                self._between_steps(elapsed)
                if not self._out_of_patience:
                    self._step(elapsed)
            self.log.flush()
            self.guard.flush()
            if self.saved_at[2] != self.clock.step or not checkpoint.list_checkpoints(self.folder):
                self._save(elapsed)
            finished = self._done(elapsed)
            metrics = self._finish() if finished else {}
        if finished and self.distributed.is_main:
            self._seal(metrics)
        self.distributed.barrier()
        return RunResult(self.folder, finished, self.clock.step, self.clock.tokens, self.clock.elapsed, metrics)

    def _done(self, elapsed: float) -> bool:
        return self._out_of_patience or self.clock.done(elapsed)

    @property
    def _out_of_patience(self) -> bool:
        """Whether the last `patience` scores were not better than the best one."""
        return bool(self.settings.patience) and self.best.scores_since >= self.settings.patience

    def _synchronise(self, stop: bool) -> tuple[float, bool]:
        """The clock of rank 0 on every rank, and whether any rank was asked to stop."""
        clock = self.clock
        own = (clock.elapsed, clock.step_seconds, self.eval_seconds, self.last_eval_seconds)
        shared, stop = self.distributed.synchronise(own, stop)
        elapsed, clock.step_seconds, self.eval_seconds, self.last_eval_seconds = shared
        return elapsed, stop

    def _between_steps(self, elapsed: float) -> None:
        """Score and save if either is due."""
        settings, progress = self.settings, self.clock.train_state(elapsed).progress
        due = settings.evals and progress * settings.evals >= self.next_eval
        if due and self.eval_seconds + self.last_eval_seconds <= settings.eval_time_fraction * elapsed:
            self._score(settings.eval_tokens)
            self.next_eval = int(progress * settings.evals) + 1
        now = (elapsed, self.clock.tokens, self.clock.step)
        batch_tokens = round(settings.batch_tokens(progress))
        next_progress = self.clock.next_step_progress(elapsed, batch_tokens)
        if self.decay_start is not None and self.clock.step and next_progress >= self.decay_start:
            self.decay_start = None
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
        before = self.clock.train_state(elapsed)
        self._resize(before)
        for hook in self.hooks:
            hook.before_step(before)
        batch_tokens = round(settings.batch_tokens(before.progress))
        progress = self.clock.next_step_progress(elapsed, batch_tokens)
        max_length = None if settings.seq_len_schedule is None else round(settings.seq_len_schedule(progress))
        with self.diagnostics.timed("data"):
            batches = self.job.batches(self.clock.step, progress, batch_tokens, max_length)
        self.lr_factor = settings.lr_schedule(progress)
        set_lr(self.optimizer, self.lr_factor)
        self.optimizer.zero_grad(set_to_none=True)
        with self.diagnostics.timed("compute"):
            terms = forward_backward(
                self.execution,
                batches,
                self.distributed,
                self.number_format,
                settings.seed,
                self.clock.step,
                self.guard.loss_scale,
            )
        with self.diagnostics.timed("update"):
            norm, updated = self._update()
        seconds = time.monotonic() - start
        self.clock.record_step(seconds, batches.tokens)
        self.flops += batches.flops
        self.diagnostics.count_step(batches.flops)
        if not self.diagnosed and self.diagnostics.ready:
            self.diagnosed = True
            self.display.warn(self.diagnostics.summary(self.peak_flops))
        after = self.clock.train_state(elapsed + seconds)
        for hook in self.hooks if updated else ():
            hook.after_step(after)
        self.log.step(self._line(after, batches, seconds, norm, progress), terms)

    def _resize(self, state: TrainState) -> None:
        """Remove what a hook says from the model. The best weights so far belong to a larger model and are dropped, and
        a checkpoint is written, since a larger one cannot be returned to."""
        for hook in self.hooks:
            kept = hook.kept_units(state)
            if kept is not None:
                self.guard.flush()
                resize(self.job.module, kept, self.optimizer, self.hooks)
                set_linear_format(self.job.module, self.number_format)
                self.best = BestWeights()
                self._save(state.elapsed)

    def _update(self) -> tuple[float | Tensor, bool]:
        """Clip and step. If the run has diverged, weights and optimiser state go back to the last checkpoint, at most
        `MAX_ROLLBACKS` times, and training continues with the data that follow (arXiv:2204.02311, section 5.1)."""
        try:
            return self.guard.step(self.optimizer)
        except UserError:
            last = last_checkpoint(self.folder, self.distributed, self.display)
            if last is None or self.guard.rollbacks >= MAX_ROLLBACKS:
                raise
        checkpoint.restore(last[1], self.job.module, self.optimizer, self.hooks)
        self.guard.rollbacks, self.guard.consecutive_skips = self.guard.rollbacks + 1, 0
        self.display.warn(
            f"Gradients were not finite in {self.guard.max_consecutive_skips} consecutive steps: the weights go back "
            f"to those of {last[0].name}, and training continues with the data that follow."
        )
        return math.nan, False

    def _line(
        self, now: TrainState, batches: StepBatches, seconds: float, norm: float | Tensor, progress: float
    ) -> Line:
        """The log line of a step, without its loss."""
        line: Line = {
            "step": now.step,
            "tokens": now.tokens,
            "elapsed": round(now.elapsed, 4),
            "progress": now.progress,
        }
        peak_lr = max(group["peak_lr"] for group in self.optimizer.param_groups)
        line |= {"lr": peak_lr * self.lr_factor, "grad_norm": norm}
        if self.peak_flops:
            line["mfu"] = round(batches.flops / seconds / self.peak_flops, 4)
        line |= {"tokens_per_s": round(batches.tokens / seconds, 1)}
        line |= {**self.job.schedule_values(progress), **self.job.metrics()}
        if self.guard.skipped:
            line |= {"skipped": self.guard.skipped, "rollbacks": self.guard.rollbacks}
        for hook in self.hooks:
            line |= hook.metrics()
        return line

    @contextlib.contextmanager
    def _overhead(self) -> Iterator[None]:
        """Count the time inside as not spent on steps."""
        start = time.monotonic()
        yield
        self.clock.overhead_seconds += time.monotonic() - start

    def _score(self, tokens: int, logged: bool = True) -> dict[str, float]:
        """Held-out metrics of the weights that will be used, in the log and on the display; keeps the best weights."""
        start = time.monotonic()
        with self._overhead(), contextlib.ExitStack() as stack:
            self.log.flush()
            for hook in self.hooks:
                stack.enter_context(hook.evaluation_weights())
            stack.enter_context(self.execution.whole_weights())
            with autocast(self.number_format, self.device):
                score = self.job.score(tokens)
            metric = self.job.selection_metric(score) if logged else None
            if metric is not None:
                self.best.update(metric, self.clock.step, self.job.module)
        self.last_score = {f"heldout_{k}" if k in ("loss", "accuracy") else k: v for k, v in score.items()}
        self.last_eval_seconds = time.monotonic() - start
        self.eval_seconds += self.last_eval_seconds
        if self.last_score and logged:
            now = self.clock.train_state(self.clock.elapsed)
            with self._overhead():
                self._check_loss(now)
            line: Line = {"step": now.step, "tokens": now.tokens, "elapsed": round(now.elapsed, 4)}
            self.log.write({**line, "progress": now.progress, **self.last_score})
        return self.last_score

    def _check_loss(self, now: TrainState) -> None:
        """Warn, once, if the held-out loss is outside the range of comparable runs."""
        if "heldout_loss" not in self.last_score or now.progress < JUDGED_FROM or not self.distributed.is_main:
            return
        expected = self.job.expected_loss(now.tokens, now.step)
        warning = self.diagnostics.check_loss(self.last_score["heldout_loss"], expected)
        if warning is not None:
            self.display.warn(warning)

    def _save(self, elapsed: float, pinned: bool = False) -> None:
        """Write a checkpoint, then remove old ones. `elapsed` is equal on all ranks; `pinned` checkpoints are kept."""
        with self._overhead():
            self.log.flush()
            self.saved_at = (elapsed, self.clock.tokens, self.clock.step)
            if self.distributed.is_main or self.distributed.mesh is not None:
                snapshot = checkpoint.capture(self.job.module, self.optimizer, self.hooks)
                snapshot.state |= self._state()
                snapshot.tensors |= {checkpoint.BEST: self.best.tensors} if self.best.tensors else {}
                settings = {"job": self.job.name()}
                checkpoint.write(self.folder, self.clock.step, snapshot, settings, pinned, self.distributed)
            if self.distributed.is_main:
                checkpoint.prune(self.folder, self.settings.keep)

    def _state(self) -> dict[str, Any]:
        return {
            "identity": self.job.identity(),
            "layers": stored_sizes(self.job.module),
            "clock": self.clock.state(),
            "job": self.job.state(),
            "guard": self.guard.state(),
            "evals": [self.eval_seconds, self.last_eval_seconds, self.next_eval],
            "flops": self.flops,
            "last_score": self.last_score,
            "diagnostics": self.diagnostics.state(),
            "best": self.best.state(),
            "seed": self.settings.seed,
            "precision": self.number_format,
            "threads": torch.get_num_threads(),
            "world": self.distributed.world,
            "lr_factor": self.lr_factor,
            "at_peak_lr": self.lr_factor == self.settings.lr_schedule.maximum,
            "pre_decay_saved": self.decay_start is None,
        }

    def _finish(self) -> dict[str, Any]:
        """Save the model, then score it: a crash in the last score costs no training. If the job has a selection
        metric, the last weights are scored before that, and the best of all scored weights are saved."""
        if self.best.tensors:
            if self.best.last_scored_step != self.clock.step:
                self._score(self.settings.eval_tokens)
            self.best.restore(self.job.module)
            self.hooks = []
        with self._overhead(), contextlib.ExitStack() as stack:
            for hook in self.hooks:
                stack.enter_context(hook.evaluation_weights())
            stack.enter_context(self.execution.full_parameters())
            if self.distributed.is_main:
                self.job.save(self.folder / MODEL, self._metrics())
        # The last point of the curve uses as many tokens as all its points; the final metrics use more.
        if not self.best.tensors:
            self._score(self.settings.eval_tokens)
        self._score(self.settings.eval_tokens * FINAL_EVAL_FACTOR, logged=False)
        metrics = self._metrics()
        if self.distributed.is_main:
            Artifact.open(self.folder / MODEL).add_metrics(metrics)
            atomic_write(self.folder / METRICS, json.dumps(metrics, indent=1, ensure_ascii=False) + "\n")
        return metrics

    def _metrics(self) -> dict[str, Any]:
        clock = self.clock
        step_seconds = max(clock.elapsed - clock.overhead_seconds, 1e-9)
        metrics: dict[str, Any] = {**self.facts, **self.last_score, **self.job.metrics()}
        metrics |= {
            "tokens": clock.tokens,
            "steps": clock.step,
            "seconds": clock.elapsed,
            "eval_seconds": self.eval_seconds,
        }
        if self.best.metric is not None:
            metrics |= {"best_step": self.best.step, "best_metric": self.best.metric}
        metrics |= {
            "tokens_per_s": clock.tokens / step_seconds,
            "skipped": self.guard.skipped,
            "rollbacks": self.guard.rollbacks,
            "budget": str(clock.budget),
        }
        if self.peak_flops and self.flops:
            metrics["mfu"] = self.flops / step_seconds / self.peak_flops
        if self.diagnostics.ready:
            metrics["data_fraction"] = self.diagnostics.time_fraction("data")
            metrics["bottleneck"] = self.diagnostics.summary(self.peak_flops)
        if self.diagnostics.loss_assessment:
            metrics["loss_assessment"] = self.diagnostics.loss_assessment
        return metrics

    def _seal(self, metrics: dict[str, Any]) -> None:
        """Make the run folder an artifact. Checkpoints are not part of it: they may be removed."""
        recipe = json.loads((self.folder / RECIPE).read_text(encoding="utf-8"))
        parents = Artifact.open(self.folder / MODEL).manifest.parents
        opened = {name: Artifact.open(parent["path"]) for name, parent in parents.items()}
        seal(self.folder, KIND, recipe, opened, metrics, mutable_folders=(checkpoint.FOLDER,))


def last_checkpoint(folder: Path, distributed: DistributedContext, display: Display) -> tuple[Path, Snapshot] | None:
    """The last undamaged checkpoint: rank 0 finds it, all ranks read it."""
    path = checkpoint.latest(folder, display.warn) if distributed.is_main else None
    (step,), _ = distributed.synchronise([-1 if path is None else checkpoint.step_of(path)], False)
    if step < 0:
        return None
    path = checkpoint.checkpoint_folder(folder, int(step))
    return path, checkpoint.read(path, whole_tensors=distributed.mesh is None)


def decay_start(schedule: Schedule) -> float | None:
    """The progress at which the last phase of a schedule begins, if it falls and the phase before it is constant: from
    there on another decay can start."""
    phases = schedule.phases
    if len(phases) < 2 or not phases[-1].end < phases[-1].start or phases[-2].start != phases[-2].end:
        return None
    return 1.0 - phases[-1].fraction
