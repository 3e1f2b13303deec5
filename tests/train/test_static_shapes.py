"""Micro-batches of a fixed shape: the loss and gradients of their text alone, one graph for all of them."""

from __future__ import annotations

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
from encodery.train.launch import resume, start
from encodery.train.pretrain import PretrainJob
from encodery.train.settings import TrainSettings
from encodery.train.static_shapes import Compiled, StaticShape
from encodery.train.step import forward_backward

Table = Callable[..., dict[str, Any]]
FIXED: dict[str, Any] = {
    "objective": {"is": "mlm", "corruption": {"is": "token", "fixed_predictions": True}, "z_loss": 1e-4}
}
TRAIN: dict[str, Any] = {"static": "eager", "batch_tokens": 512, "micro_batch_tokens": 256}


def job(table: Table, team: DistributedContext | None = None, **over: Any) -> PretrainJob:
    return PretrainJob.rebuild(table(**FIXED, **over, train=TRAIN), team or DistributedContext(), torch.device("cpu"))


def gradients(made: PretrainJob, run: Callable[[Batch], Any], batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    made.module.zero_grad()
    loss = normalised_loss(run(batch), made.counts(batch))
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {n: p.grad.clone() for n, p in made.module.named_parameters() if p.grad is not None}


def text_of(batch: Batch, pad: int, cu_seqlens: torch.Tensor) -> Batch:
    """The same without what only fills the frame: a batch of the usual kind."""
    real = int(cu_seqlens[-1])
    assert (batch.ids[real:] == pad).all()
    kept = batch.extra["labels"] >= 0
    extra = {"masked_positions": batch.extra["masked_positions"][kept], "labels": batch.extra["labels"][kept]}
    return Batch(batch.ids[:real], cu_seqlens, int(cu_seqlens.diff().max()), None, extra)


@pytest.mark.parametrize("parts", [("learned", "post", "mlp"), ("rotary", "pre", "glu")], ids=lambda p: p[0])
def test_one_graph_gives_what_the_text_alone_gives(table: Table, parts: tuple[str, str, str]) -> None:
    names = dict(zip(("positions", "block", "ffn"), ({"is": part} for part in parts), strict=True))
    made = job(table, model={**names, "depth": 2})
    assert made.static_shape is not None
    compiled = Compiled(made.model, made.objective, made.static_shape, backend="aot_eager")
    torch._dynamo.reset()
    counters.clear()
    seen = set()
    for step in range(3):
        for micro in made.batches(step, 0.5, 512, None).micro_batches:
            batch = micro.batch
            counted = int((batch.ids != made.static_shape.pad_id).sum())
            ends = batch.cu_seqlens[batch.cu_seqlens <= counted].unique()
            seen.add(counted)
            loss, grads = gradients(made, compiled, batch)
            wanted, wanted_grads = gradients(made, made.terms, text_of(batch, made.static_shape.pad_id, ends))
            assert loss == pytest.approx(wanted, rel=1e-5)
            assert grads.keys() == wanted_grads.keys()
            for name, grad in grads.items():
                torch.testing.assert_close(grad, wanted_grads[name], rtol=1e-4, atol=1e-6, msg=name)
    assert len(seen) > 1, "frames with more and with less text"
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def replaying(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
    """A graph whose results lie in the same memory every time, as those of a recorded CUDA graph do."""
    held: list[torch.Tensor] = []

    def run(given: list[Any]) -> list[Any]:
        found = list(graph(*given))
        given.clear()
        if not held:
            held.extend(one.clone() if isinstance(one, torch.Tensor) else one for one in found)
        for at, one in enumerate(found):
            if isinstance(one, torch.Tensor):
                held[at].copy_(one)
        return list(held)

    run._boxed_call = True  # type: ignore[attr-defined]
    return run


def test_replayed_graphs_write_over_nothing_that_is_needed(table: Table) -> None:
    made = job(table, model={"depth": 2})
    assert made.static_shape is not None
    torch._dynamo.reset()

    def backend(graph: torch.fx.GraphModule, given: Any, mode: str | None = None) -> Callable[..., Any]:
        assert mode == "reduce-overhead"
        return aot_autograd(fw_compiler=replaying, bw_compiler=replaying)(graph, given)

    work = made.batches(0, 0.5, 1024, None)
    assert len(work.micro_batches) == 4
    found = []
    for around in (None, Compiled(made.model, made.objective, made.static_shape, True, backend)):
        made.around, made.replays = around, around is not None
        for step in range(2):
            made.module.zero_grad(set_to_none=True)
            terms = forward_backward(made, work, DistributedContext(), "fp32", 0, step)
        grads = {n: p.grad.clone() for n, p in made.module.named_parameters() if p.grad is not None}
        found.append(([float(one["mlm"].total) for one in terms], grads))
    assert len(set(found[0][0])) == 4
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[1][1].keys() == found[0][1].keys()
    for name, grad in found[1][1].items():
        torch.testing.assert_close(grad, found[0][1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_replaying_needs_a_device_that_records(table: Table) -> None:
    with pytest.raises(SettingsError, match="needs a CUDA device"):
        PretrainJob.rebuild(
            table(**FIXED, train={**TRAIN, "static": "replayed"}), DistributedContext(), torch.device("cpu")
        )


def test_frames_have_one_shape_and_ranks_share_the_frames_of_one(table: Table) -> None:
    alone = job(table)
    ranks = [job(table, DistributedContext(rank, 2)) for rank in range(2)]
    for step in range(3):
        work = alone.batches(step, step / 3, 512, None)
        shapes = {
            (len(m.batch.ids), len(m.batch.cu_seqlens), len(m.batch.extra["masked_positions"]))
            for m in work.micro_batches
        }
        assert alone.static_shape is not None
        assert shapes == {(256, alone.static_shape.sequences + 1, alone.static_shape.predictions)}
        shared = [rank.batches(step, step / 3, 512, None) for rank in ranks]
        assert [one.tokens for one in shared] == [work.tokens] * 2
        for micro in (micro for one in shared for micro in one.micro_batches):
            assert torch.equal(micro.batch.ids, work.micro_batches[micro.index].batch.ids)
    assert alone.state() == ranks[0].state() == ranks[1].state()


def test_fill(store: Path) -> None:
    split = TokenStore.open(store).train
    feed = PackedLoader(
        split, LoaderSettings(max_length=32, batch_tokens=256), 0, per_rank_batches=True, max_sequences=40
    )
    drawn = [feed.next(256) for _ in range(50)]
    assert sum(packed.tokens for packed in drawn) > 0.98 * 50 * 256, "of frames of eight sequences"
    few = PackedLoader(
        split, LoaderSettings(max_length=32, batch_tokens=256), 0, per_rank_batches=True, max_sequences=9
    )
    assert max(len(few.next(256).lengths) for _ in range(20)) <= 9


def test_a_run_in_frames_is_resumed_as_it_was(table: Table, tmp_path: Path, losses: Callable[[Path], Any]) -> None:
    recipe = table(**FIXED, train={**TRAIN, "budget": "8steps"})
    start(recipe, tmp_path / "run")
    lines = [line for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert all(0.95 * 512 < line["tokens"] - before <= 512 for before, line in zip(
        [0, *(line["tokens"] for line in lines)], lines, strict=False
    ))  # fmt: skip
    (tmp_path / "run" / "manifest.json").unlink()
    before = losses(tmp_path / "run")
    resume(tmp_path / "run")
    assert losses(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"objective": {"is": "mlm"}}, "fixed_predictions=true"),
        ({"objective": {**FIXED["objective"], "is": "mask_late"}}, "mask_late has batches whose shape"),
        (
            {"objective": {"is": "mlm", "corruption": {**FIXED["objective"]["corruption"], "predict_rate": "0.3"}}},
            "repeats the batch",
        ),
        ({**FIXED, "feed": {"max_length": 32}, "train": {"batch_tokens": 40, "micro_batch_tokens": 20}}, "cannot hold"),
    ],
)
def test_what_cannot_be_fixed_is_refused(table: Table, over: dict[str, Any], said: str) -> None:
    recipe = table(**{**over, "train": {**TRAIN, **over.get("train", {})}})
    with pytest.raises(SettingsError, match=said):
        PretrainJob.rebuild(recipe, DistributedContext(), torch.device("cpu"))


def imbalance(loads: np.ndarray[Any, Any]) -> float:
    """How much longer the slowest rank works than the mean."""
    return float(loads.max() / loads.mean() - 1)


@pytest.mark.parametrize("world", [8, 64])
def test_dealt_sequences_are_even_in_tokens_and_in_attention(world: int) -> None:
    rng = np.random.default_rng(world)
    sizes = np.sort(np.minimum(rng.lognormal(4.5, 1.0, 40 * world).astype(np.int64) + 3, 512))[::-1]
    even = 6 * 256
    drawn = rng.permutation(sizes).reshape(world, -1)
    before = imbalance(drawn.sum(1)), imbalance((drawn * (1 + drawn / even)).sum(1))
    seats = balance(sizes, world, even)
    tokens = np.bincount(seats, sizes, world)
    costs = np.bincount(seats, sizes * (1 + sizes / even), world)
    assert imbalance(tokens) < 0.01 < before[0]
    assert imbalance(costs) < 0.01 < before[1]
    assert set(np.bincount(seats)) == {40}


@dataclass(frozen=True, kw_only=True)
class Elsewhere(MaskedLM):
    """An objective of somebody else's, who knows how many rows it predicts."""

    def max_predictions(self, tokens: int) -> int:
        return tokens // 4


def test_an_objective_says_itself_how_many_rows_it_predicts() -> None:
    settings = TrainSettings(static="eager", micro_batch_tokens=256)
    assert StaticShape.of(settings, Elsewhere(), 32, 1, 0).predictions == 64
    rising = TokenMasking(rate=Schedule.parse("0.30 -> 0.15 linear"), fixed_predictions=True)
    assert StaticShape.of(settings, MaskedLM(corruption=rising), 32, 1, 0).predictions == round(0.3 * 256)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's own import of inductor
def test_inductor_gives_the_losses_and_gradients_of_eager(table: Table) -> None:
    """The compiler that `train.static=compiled` uses, with its C++ for this CPU. Minutes, most of them compiling."""
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    made = PretrainJob.rebuild(
        table(
            **FIXED,
            model={"positions": {"is": "rotary"}, "block": {"is": "pre"}},
            train={**TRAIN, "static": "compiled"},
        ),
        DistributedContext(),
        torch.device("cpu"),
    )
    assert made.around is not None
    torch._dynamo.reset()
    counters.clear()
    for step in range(3):
        for micro in made.batches(step, 0.5, 512, None).micro_batches:
            loss, grads = gradients(made, made.around, micro.batch)
            wanted, wanted_grads = gradients(made, made.terms, micro.batch)
            assert loss == pytest.approx(wanted, rel=1e-5)
            for name, grad in grads.items():
                torch.testing.assert_close(grad, wanted_grads[name], rtol=1e-4, atol=1e-6, msg=name)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_a_compiled_step_on_a_cpu_is_told_to_be_slower(table: Table) -> None:
    for static, said in (("compiled", 1), ("eager", 0)):
        made = PretrainJob.rebuild(
            table(**FIXED, train={**TRAIN, "static": static}), DistributedContext(), torch.device("cpu")
        )
        assert sum("train.static=off" in remark for remark in made.warnings(torch.float32)) == said


def test_a_filled_frame_ends_where_it_should() -> None:
    frame = StaticShape(tokens=64, sequences=10, predictions=8, max_seqlen=16, pad_id=0)
    filled = frame.pad_batch(PackedBatch(np.arange(1, 31), np.array([0, 10, 30], np.int32)))
    assert filled.cu_seqlens.tolist() == [0, 10, 30, 46, 62, 64, 64, 64, 64, 64, 64]
    assert filled.ids[:30].tolist() == list(range(1, 31))
    assert not filled.ids[30:].any()
