"""Micro-batches of a fixed shape: loss and gradients of their text alone, and one compiled graph for all of them."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from encodery.base.errors import SettingsError
from encodery.base.run_log import read_log
from encodery.base.schedule import Schedule
from encodery.corrupt.token import TokenMasking
from encodery.model.shape import Batch
from encodery.objectives import normalised_loss
from encodery.objectives.mlm import MaskedLM
from encodery.tokens.fit import balance
from encodery.tokens.loader import LoaderSettings, PackedBatch, PackedLoader
from encodery.tokens.store import TokenStore
from encodery.train.distributed import DistributedContext
from encodery.train.execution import cuda_graphs
from encodery.train.execution._graph import CompiledTerms
from encodery.train.execution.compiled import Compiled
from encodery.train.execution.cuda_graphs import CudaGraphs
from encodery.train.execution.plain import Plain
from encodery.train.job import Job
from encodery.train.launch import choose_execution, resume, start
from encodery.train.pretrain import PretrainJob
from encodery.train.recipe import Recipe
from encodery.train.settings import TrainSettings
from encodery.train.static_shapes import StaticShape
from encodery.train.step import forward_backward

Table = Callable[..., Recipe[Any]]
FIXED: dict[str, Any] = {
    "objective": {"is": "mlm", "corruption": {"is": "token", "fixed_predictions": True}, "z_loss": 1e-4}
}
TRAIN: dict[str, Any] = {"static_shapes": True, "batch_tokens": 512, "micro_batch_tokens": 256}
CPU, SINGLE = torch.device("cpu"), DistributedContext()


def make_job(table: Table, distributed: DistributedContext = SINGLE, **settings: Any) -> PretrainJob:
    return PretrainJob.from_recipe(table(**FIXED, **settings, train=TRAIN), distributed, CPU)


def gradients(job: PretrainJob, terms: Callable[[Batch], Any], batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    job.module.zero_grad()
    loss = normalised_loss(terms(batch), job.counts(batch))
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {n: p.grad.clone() for n, p in job.module.named_parameters() if p.grad is not None}


def without_padding(batch: Batch, pad_id: int, cu_seqlens: torch.Tensor) -> Batch:
    """The text of a padded batch as an ordinary batch."""
    tokens = int(cu_seqlens[-1])
    assert (batch.ids[tokens:] == pad_id).all()
    kept = batch.extra["labels"] >= 0
    extra = {"masked_positions": batch.extra["masked_positions"][kept], "labels": batch.extra["labels"][kept]}
    return Batch(batch.ids[:tokens], cu_seqlens, int(cu_seqlens.diff().max()), None, extra)


@pytest.mark.parametrize(
    "parts",
    [
        ("learned", "post", "mlp"),
        ("rotary", "pre", "glu"),
        ("relative_bias", "pre", "glu"),
        ("disentangled", "post", "mlp"),
    ],
    ids=lambda p: p[0],
)
def test_one_graph_gives_the_loss_and_gradients_of_the_text_alone(table: Table, parts: tuple[str, str, str]) -> None:
    model = dict(zip(("positions", "block", "ffn"), ({"is": part} for part in parts), strict=True))
    job = make_job(table, model={**model, "depth": 2})
    shape = job.static_shape
    assert shape is not None
    compiled = CompiledTerms(job, backend="aot_eager")
    torch._dynamo.reset()
    counters.clear()
    text_lengths = set()
    for step in range(3):
        for micro in job.batches(step, 0.5, 512, None).micro_batches:
            batch = micro.batch
            tokens = int((batch.ids != shape.pad_id).sum())
            cu_seqlens = batch.cu_seqlens[batch.cu_seqlens <= tokens].unique()
            text_lengths.add(tokens)
            loss, grads = gradients(job, compiled, batch)
            expected, expected_grads = gradients(job, job.terms, without_padding(batch, shape.pad_id, cu_seqlens))
            assert loss == pytest.approx(expected, rel=1e-5)
            assert grads.keys() == expected_grads.keys()
            for name, grad in grads.items():
                torch.testing.assert_close(grad, expected_grads[name], rtol=1e-4, atol=1e-6, msg=name)
    assert len(text_lengths) > 1, "micro-batches with different amounts of padding"
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def replaying(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
    """A graph whose results are in the same memory every time, as those of a recorded CUDA graph are."""
    memory: list[torch.Tensor] = []

    def run(args: list[Any]) -> list[Any]:
        results = list(graph(*args))
        args.clear()
        if not memory:
            memory.extend(one.clone() if isinstance(one, torch.Tensor) else one for one in results)
        for i, one in enumerate(results):
            if isinstance(one, torch.Tensor):
                memory[i].copy_(one)
        return list(memory)

    run._boxed_call = True  # type: ignore[attr-defined]
    return run


def test_replayed_graphs_overwrite_nothing_that_is_needed(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(table, model={"depth": 2})
    torch._dynamo.reset()

    def backend(graph: torch.fx.GraphModule, args: Any, mode: str | None = None) -> Callable[..., Any]:
        assert mode == "reduce-overhead"
        return aot_autograd(fw_compiler=replaying, bw_compiler=replaying)(graph, args)

    monkeypatch.setattr(cuda_graphs, "CompiledTerms", functools.partial(CompiledTerms, backend=backend))
    batches = job.batches(0, 0.5, 1024, None)
    assert len(batches.micro_batches) == 4
    results = []
    for strategy in (Plain(), CudaGraphs()):
        execution = strategy.build(job, SINGLE, CPU)
        for step in range(2):
            job.module.zero_grad(set_to_none=True)
            terms = forward_backward(execution, batches, SINGLE, "fp32", 0, step)
        grads = {n: p.grad.clone() for n, p in job.module.named_parameters() if p.grad is not None}
        results.append(([float(one["mlm"].total) for one in terms], grads))
    (plain, plain_grads), (replayed, replayed_grads) = results
    assert len(set(plain)) == 4
    assert replayed == pytest.approx(plain, rel=1e-5)
    assert replayed_grads.keys() == plain_grads.keys()
    for name, grad in replayed_grads.items():
        torch.testing.assert_close(grad, plain_grads[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("job", "train", "message"),
    [
        (PretrainJob, {"cuda_graphs": True}, "needs a CUDA device"),
        (PretrainJob, {"compile": True, "fsdp": True}, "selects compiled and fsdp.* exclude each other"),
        (Job, {"static_shapes": True}, "have no fixed shape"),
        (Job, {"compile": True}, "have no fixed shape"),
    ],
)
def test_settings_that_cannot_run_are_refused(
    table: Table, job: type[Job], train: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        choose_execution(job, table(**FIXED, train=train).settings, CPU)


@pytest.mark.parametrize(
    ("train", "strategy"),
    [
        ({"static_shapes": True}, Plain),
        ({"compile": True}, Compiled),
        ({"compile": True, "cuda_graphs": True}, CudaGraphs),
    ],
)
def test_the_settings_select_the_strategy(table: Table, train: dict[str, Any], strategy: type[Any]) -> None:
    settings = table(**FIXED, train=train).settings
    assert settings.train.fixed_shapes
    assert type(choose_execution(PretrainJob, settings, torch.device("cuda"))) is strategy


def test_micro_batches_have_one_shape_and_several_ranks_see_the_same_ones(table: Table) -> None:
    alone = make_job(table)
    ranks = [make_job(table, DistributedContext(rank, 2)) for rank in range(2)]
    assert alone.static_shape is not None
    for step in range(3):
        whole = alone.batches(step, step / 3, 512, None)
        shapes = {
            (len(m.batch.ids), len(m.batch.cu_seqlens), len(m.batch.extra["masked_positions"]))
            for m in whole.micro_batches
        }
        assert shapes == {(256, alone.static_shape.sequences + 1, alone.static_shape.predictions)}
        parts = [rank.batches(step, step / 3, 512, None) for rank in ranks]
        assert [part.tokens for part in parts] == [whole.tokens] * 2
        for micro in (micro for part in parts for micro in part.micro_batches):
            assert torch.equal(micro.batch.ids, whole.micro_batches[micro.index].batch.ids)
    assert alone.state() == ranks[0].state() == ranks[1].state()


def test_micro_batches_are_filled_and_hold_at_most_max_sequences(store: Path) -> None:
    split = TokenStore.open(store).train
    settings = LoaderSettings(max_length=32, batch_tokens=256)
    loader = PackedLoader(split, settings, 0, max_sequences=40)
    batches = [loader.next(256) for _ in range(50)]
    assert sum(packed.tokens for packed in batches) > 0.98 * 50 * 256, "of micro-batches of eight sequences"
    few = PackedLoader(split, settings, 0, max_sequences=9)
    assert max(len(few.next(256).lengths) for _ in range(20)) <= 9


def test_a_run_with_static_shapes_can_be_resumed(table: Table, tmp_path: Path, losses: Callable[[Path], Any]) -> None:
    recipe = table(**FIXED, train={**TRAIN, "budget": "8steps"})
    start(recipe, tmp_path / "run")
    tokens = [line["tokens"] for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert all(0.95 * 512 < after - before <= 512 for before, after in zip([0, *tokens], tokens, strict=False))
    (tmp_path / "run" / "manifest.json").unlink()
    before = losses(tmp_path / "run")
    resume(tmp_path / "run")
    assert losses(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": {"is": "mlm"}}, "fixed_predictions=true"),
        ({"objective": {**FIXED["objective"], "is": "mask_late"}}, "'mask_late' has batches whose shape"),
        (
            {"objective": {"is": "mlm", "corruption": {**FIXED["objective"]["corruption"], "predict_rate": "0.3"}}},
            "repeats the batch",
        ),
        (
            {**FIXED, "feed": {"max_length": 32}, "train": {"batch_tokens": 40, "micro_batch_tokens": 20}},
            "cannot hold",
        ),
    ],
)
def test_batches_that_cannot_have_a_fixed_shape_are_refused(
    table: Table, settings: dict[str, Any], message: str
) -> None:
    recipe = table(**{**settings, "train": {**TRAIN, **settings.get("train", {})}})
    with pytest.raises(SettingsError, match=message):
        PretrainJob.from_recipe(recipe, SINGLE, CPU)


def imbalance(loads: np.ndarray[Any, Any]) -> float:
    """By how much the load of the slowest rank exceeds the mean, as a fraction."""
    return float(loads.max() / loads.mean() - 1)


@pytest.mark.parametrize("world", [8, 64])
def test_balanced_sequences_are_even_in_tokens_and_in_attention(world: int) -> None:
    rng = np.random.default_rng(world)
    sizes = np.sort(np.minimum(rng.lognormal(4.5, 1.0, 40 * world).astype(np.int64) + 3, 512))[::-1]
    even = 6 * 256
    unbalanced = rng.permutation(sizes).reshape(world, -1)
    before = imbalance(unbalanced.sum(1)), imbalance((unbalanced * (1 + unbalanced / even)).sum(1))
    micro_batch_ids = balance(sizes, world, even)
    tokens = np.bincount(micro_batch_ids, sizes, world)
    costs = np.bincount(micro_batch_ids, sizes * (1 + sizes / even), world)
    assert imbalance(tokens) < 0.01 < before[0]
    assert imbalance(costs) < 0.01 < before[1]
    assert set(np.bincount(micro_batch_ids)) == {40}


@dataclass(frozen=True, kw_only=True)
class ExternalObjective(MaskedLM):
    """An objective outside the package that bounds its number of predictions."""

    def max_predictions(self, tokens: int) -> int:
        return tokens // 4


def test_an_objective_decides_its_number_of_predictions() -> None:
    settings = TrainSettings(static_shapes=True, micro_batch_tokens=256)
    assert StaticShape.of(settings, ExternalObjective(), 32, 1, 0).predictions == 64
    falling = TokenMasking(rate=Schedule.parse("0.30 -> 0.15 linear"), fixed_predictions=True)
    assert StaticShape.of(settings, MaskedLM(corruption=falling), 32, 1, 0).predictions == round(0.3 * 256)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's own import of inductor
def test_inductor_gives_the_losses_and_gradients_of_eager_mode(table: Table) -> None:
    """The compiler that `train.compile` uses, with its C++ for this CPU. Takes minutes, most of them for compiling."""
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    job = make_job(table, model={"positions": {"is": "rotary"}, "block": {"is": "pre"}})
    compiled = CompiledTerms(job)
    torch._dynamo.reset()
    counters.clear()
    for step in range(3):
        for micro in job.batches(step, 0.5, 512, None).micro_batches:
            loss, grads = gradients(job, compiled, micro.batch)
            expected, expected_grads = gradients(job, job.terms, micro.batch)
            assert loss == pytest.approx(expected, rel=1e-5)
            for name, grad in grads.items():
                torch.testing.assert_close(grad, expected_grads[name], rtol=1e-4, atol=1e-6, msg=name)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_compilation_on_a_cpu_is_warned_about(table: Table) -> None:
    job = make_job(table)
    assert "train.compile=false" in Compiled().build(job, SINGLE, CPU).warnings()[0]
    assert not Plain().build(job, SINGLE, CPU).warnings()


def test_padding_fills_a_batch_with_sequences_of_padding() -> None:
    shape = StaticShape(tokens=64, sequences=10, predictions=8, max_seqlen=16, pad_id=0)
    padded = shape.pad_batch(PackedBatch(np.arange(1, 31), np.array([0, 10, 30], np.int32)))
    assert padded.cu_seqlens.tolist() == [0, 10, 30, 46, 62, 64, 64, 64, 64, 64, 64]
    assert padded.ids[:30].tolist() == list(range(1, 31))
    assert not padded.ids[30:].any()
