"""Masked language modelling against the formula, and its micro-batches against the one large batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule
from encodery.base.settings import decode
from encodery.corrupt import IGNORE_INDEX, Vocabulary
from encodery.corrupt.token import TokenMasking
from encodery.model import count
from encodery.model.network import Model, build_model
from encodery.model.ops.masked_cross_entropy import chunked
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.objectives import Objective, normalised_loss, step_metrics, sum_counts
from encodery.objectives.mlm import MaskedLM

V = 128


def vocabulary() -> Vocabulary:
    return Vocabulary(4, torch.arange(V) < 6, 120, torch.arange(V) % 3 != 0)


def model() -> Model:
    return build_model(ModelSettings(width=16, depth=2, heads=2, vocab_size=V, max_length=64), seed=1).double()


def batch(lengths: list[int], seed: int = 0) -> Batch:
    source = torch.Generator().manual_seed(seed)
    body = [torch.randint(6, 120, (n - 2,), generator=source).tolist() for n in lengths]
    return Batch.from_sequences([[1, *ids, 2] for ids in body])


def gradients(net: Model) -> Tensor:
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_terms_and_gradient_equal_the_formula(z_loss: float) -> None:
    net, objective = model(), MaskedLM(z_loss=z_loss)
    module = objective.build(net.settings, vocabulary())
    prepared = module.prepare(batch([30, 12, 12, 5]), torch.Generator().manual_seed(0), 0.0)
    terms = module(net, prepared)
    normalised_loss(terms, sum_counts([module.counts(prepared)])).backward()
    ours = gradients(net)
    net.zero_grad()
    rows, targets = prepared.extra["masked_positions"], prepared.extra["labels"]
    logits = net.mlm_head(net(prepared).hidden[rows], net.encoder)
    nll = F.cross_entropy(logits, targets)
    z = z_loss * logits.logsumexp(1).square().mean()
    (nll + z).backward()
    assert (ours - gradients(net)).abs().max() < 1e-12
    metrics = step_metrics([terms])
    assert metrics["mlm"] == pytest.approx(nll.item(), abs=1e-12)
    assert metrics["accuracy"] == (logits.argmax(1) == targets).double().mean().item()
    assert metrics["loss"] == pytest.approx((nll + z).item(), abs=1e-12)
    assert ("z" in metrics) == (z_loss > 0)
    assert metrics.get("z", 0.0) == pytest.approx(z.item(), abs=1e-12)


def test_micro_batches_of_different_sizes_equal_the_one_large_batch() -> None:
    net = model()
    module = MaskedLM(z_loss=1e-3).build(net.settings, vocabulary())
    pieces = [
        module.prepare(batch(lengths, i), torch.Generator().manual_seed(i), 0.0)
        for i, lengths in enumerate(([40, 8], [5], [21, 9, 9]))
    ]
    counts = sum_counts(module.counts(p) for p in pieces)
    for piece in pieces:
        normalised_loss(module(net, piece), counts).backward()
    accumulated = gradients(net)
    net.zero_grad()
    shifts = torch.tensor([0, *[p.tokens for p in pieces[:-1]]]).cumsum(0)
    ends = torch.cat([p.cu_seqlens[1:] + s for p, s in zip(pieces, shifts, strict=True)])
    rows = torch.cat([p.extra["masked_positions"] + s for p, s in zip(pieces, shifts, strict=True)])
    big = Batch(
        torch.cat([p.ids for p in pieces]),
        torch.cat([torch.zeros(1), ends]).to(torch.int32),
        40,
        extra={"masked_positions": rows, "labels": torch.cat([p.extra["labels"] for p in pieces])},
    )
    normalised_loss(module(net, big), module.counts(big)).backward()
    assert (accumulated - gradients(net)).abs().max() < 1e-13


def test_spare_positions_change_nothing() -> None:
    net = model()
    module = MaskedLM(corruption=TokenMasking(rate=Schedule.parse(0.5), fixed_predictions=True), z_loss=1e-3).build(
        net.settings.shape, vocabulary()
    )
    prepared = module.prepare(batch([3, 3, 3, 4]), torch.Generator().manual_seed(0), 0.0)
    real = prepared.extra["labels"] != IGNORE_INDEX
    assert prepared.extra["masked_positions"].numel() == 6
    assert real.sum() == module.counts(prepared)["mlm"] == 5
    normalised_loss(module(net, prepared), module.counts(prepared)).backward()
    padded = gradients(net)
    net.zero_grad()
    bare = prepared.with_ids(
        prepared.ids, masked_positions=prepared.extra["masked_positions"][real], labels=prepared.extra["labels"][real]
    )
    terms = module(net, bare)
    normalised_loss(terms, module.counts(bare)).backward()
    assert (padded - gradients(net)).abs().max() < 1e-14


def test_no_gradients_are_computed_without_grad_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    net, calls = model(), []
    module = MaskedLM().build(net.settings, vocabulary())
    prepared = module.prepare(batch([30, 12]), torch.Generator().manual_seed(0), 0.0)
    monkeypatch.setattr(chunked._Grads, "add", lambda *_: calls.append(1))
    with torch.no_grad():
        module(net, prepared)
    assert not calls
    module(net, prepared)
    assert calls


def test_copies_form_a_packed_batch() -> None:
    net = model()
    corruption = TokenMasking(
        rate=Schedule.parse(0.2), predict_rate=Schedule.parse(0.4), mask=1.0, random=0.0, keep=0.0
    )
    module = MaskedLM(corruption=corruption).build(net.settings, vocabulary())
    prepared = module.prepare(batch([22, 12]), torch.Generator().manual_seed(0), 0.0)
    assert prepared.cu_seqlens.tolist() == [0, 22, 34, 56, 68]
    assert prepared.layout.lengths == (22, 12, 22, 12)
    assert prepared.extra["masked_positions"].numel() == 12
    assert module.rates(0.0) == {"mask_rate": 0.2, "predict_rate": 0.4}
    assert step_metrics([module(net, prepared)])["mlm"] > 0


@pytest.mark.parametrize(("predict_rate", "copies"), [(0.1, 1), (0.2, 1), (0.4, 2), (0.5, 3)])
def test_flops_count_every_copy_of_the_batch(predict_rate: float, copies: int) -> None:
    corruption = TokenMasking(rate=Schedule.parse(0.2), predict_rate=Schedule.parse(predict_rate))
    settings = model().settings
    flops = MaskedLM(corruption=corruption).build(settings, vocabulary()).flops(settings, 20.0, 0.0)
    once = count.flops_per_token(settings, 20.0, round(predict_rate / copies, 2))
    assert flops == pytest.approx(copies * once)


def test_the_mask_rate_is_reported_to_the_log() -> None:
    part = decode(Objective, {"is": "mlm", "corruption": {"is": "word", "rate": "0.3 -> 0.1 linear"}})
    module = part.build(ModelSettings(vocab_size=V), vocabulary())
    assert module.rates(0.5) == {"mask_rate": pytest.approx(0.2)}


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="z_loss"):
        MaskedLM(z_loss=-1.0)
    with pytest.raises(SettingsError, match=r"model\.vocab_size"):
        MaskedLM().build(ModelSettings(vocab_size=64), vocabulary())
