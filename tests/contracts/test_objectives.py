"""Contract of the objectives: whatever parts lie in the folder."""

from __future__ import annotations

import pytest
import torch

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.corrupt import Vocabulary
from encodery.model.network import ModelSettings, build_model
from encodery.model.shape import Batch
from encodery.objectives import Objective, normalised_loss, step_metrics, sum_counts

V = 96


def batch() -> Batch:
    source = torch.Generator().manual_seed(0)
    lengths = (40, 31, 12, 12, 5)
    return Batch.from_sequences([[1, *torch.randint(6, V, (n - 2,), generator=source).tolist(), 2] for n in lengths])


@pytest.mark.parametrize("name", part_names(Objective))
def test_what_every_objective_promises(name: str) -> None:
    part = find_part(Objective, name)()
    model = build_model(ModelSettings(width=32, depth=2, heads=2, vocab_size=V, max_length=64), seed=0)
    words = Vocabulary(4, torch.arange(V) < 6, V, torch.ones(V, dtype=torch.bool))
    work = part.build(model.settings, words)
    work.init_weights(torch.Generator().manual_seed(1))
    assert part.num_parameters(model.settings) == sum(p.numel() for p in work.parameters())
    assert not any(p.isnan().any() for p in work.parameters())
    assert 0 < work.flops(model.settings, 20.0, 0.5) < float("inf")
    given = batch()
    ids = given.ids.clone()
    first = work.prepare(given, torch.Generator().manual_seed(7), 0.5)
    again = work.prepare(given, torch.Generator().manual_seed(7), 0.5)
    assert torch.equal(given.ids, ids), "the batch given is not written to"
    assert torch.equal(first.ids, again.ids), "reproducible from the generator"
    assert all(torch.equal(first.extra[key], again.extra[key]) for key in first.extra)

    terms, counts = work(model, first), work.counts(first)
    learned = {name: term for name, term in terms.items() if term.weight}
    assert learned
    assert {name: int(term.count) for name, term in learned.items()} == {name: int(n) for name, n in counts.items()}
    assert all(term.total.ndim == 0 for term in terms.values())
    loss = normalised_loss(terms, sum_counts([counts]))
    assert loss.item() == pytest.approx(step_metrics([terms])["loss"], rel=1e-5)
    loss.backward()
    touched = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.encoder.parameters()]
    assert sum(touched) > 0.8 * len(touched), "the encoder learns"
    assert all(isinstance(rate, float) for rate in work.rates(0.3).values())


@pytest.mark.parametrize("name", part_names(Objective))
def test_a_few_steps_lower_the_loss(name: str) -> None:
    part = find_part(Objective, name)()
    model = build_model(ModelSettings(width=32, depth=1, heads=2, vocab_size=V, max_length=64), seed=0)
    words = Vocabulary(4, torch.arange(V) < 6, V, torch.ones(V, dtype=torch.bool))
    work = part.build(model.settings, words)
    work.init_weights(torch.Generator().manual_seed(1))
    prepared = work.prepare(batch(), torch.Generator().manual_seed(7), 0.0)
    optimizer = torch.optim.AdamW([*model.parameters(), *work.parameters()], lr=1e-2)
    losses = []
    for _ in range(12):
        loss = normalised_loss(work(model, prepared), work.counts(prepared))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", part_names(Objective))
def test_settings_round_trip(name: str) -> None:
    part = find_part(Objective, name)()
    assert decode(Objective, encode(part)) == part
