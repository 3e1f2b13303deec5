"""Checks of objectives, each with a small model on one batch of random ids."""

from __future__ import annotations

import dataclasses
import math

import torch

from encodery.base.parts import find_part, name_of, part_names
from encodery.base.settings import decode, encode
from encodery.corrupt import Vocabulary
from encodery.model.decoder_settings import DecoderSettings
from encodery.model.extra_heads import ExtraHead
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.objectives import Objective, ObjectiveModule, RunSize, normalised_loss, step_metrics, sum_counts

VOCAB_SIZE, NUM_SPECIAL, MASK_ID = 96, 6, 4
LENGTHS = (40, 31, 12, 12, 5)


def example_batch() -> Batch:
    """Return five sequences of random ids between [CLS] (1) and [SEP] (2)."""
    generator = torch.Generator().manual_seed(0)
    return Batch.from_sequences(
        [[1, *torch.randint(NUM_SPECIAL, VOCAB_SIZE, (n - 2,), generator=generator).tolist(), 2] for n in LENGTHS]
    )


def example_model(part: Objective, depth: int = 2) -> tuple[Model, ObjectiveModule]:
    """Return a model of width 32 and the part's module for it, both initialised."""
    settings = _settings(part, depth)
    model = build_model(settings, seed=0)
    every = torch.ones(VOCAB_SIZE, dtype=torch.bool)
    module = part.build(settings, Vocabulary(MASK_ID, torch.arange(VOCAB_SIZE) < NUM_SPECIAL, VOCAB_SIZE, every))
    module.init_weights(torch.Generator().manual_seed(1))
    module.attach(model)
    return model, module


def _settings(part: Objective, depth: int) -> ModelSettings:
    """The first settings that the part can train: a masked language model, an encoder–decoder, or an encoder with the
    extra head of the part's name, with or without a masked-language-model head."""
    plain = ModelSettings(width=32, depth=depth, heads=2, vocab_size=VOCAB_SIZE, max_length=64)
    tried = [plain, dataclasses.replace(plain, decoder=DecoderSettings(depth=1, embedding_norm=True))]
    if name_of(part) in part_names(ExtraHead):
        both = dataclasses.replace(plain, extra_heads=(find_part(ExtraHead, name_of(part))(),))
        tried += [both, dataclasses.replace(both, head=None)]
    known = [settings for settings in tried if part.incompatibility(settings) is None]
    assert known, "the part can train neither an encoder, nor an encoder–decoder, nor an extra head of its name"
    return known[0]


def prepare(module: ObjectiveModule, batch: Batch, progress: float = 0.5) -> Batch:
    """Prepare a batch with a generator of a fixed seed."""
    return module.prepare(batch, torch.Generator().manual_seed(7), progress)


def check_settings_round_trip(part: Objective) -> None:
    """The part is what its settings decode to."""
    assert decode(Objective, encode(part)) == part


def check_weights(part: Objective) -> None:
    """`num_parameters` counts the module's weights, and `init_weights` fills all of them."""
    model, module = example_model(part)
    assert part.num_parameters(model.settings) == sum(p.numel() for p in module.parameters())
    assert not any(p.isnan().any() for p in module.parameters())


def check_flops_and_rates(part: Objective) -> None:
    """`flops` is positive and finite, `rates` holds numbers."""
    model, module = example_model(part)
    assert 0 < module.flops(model.settings, 20.0, 0.5) < math.inf
    assert all(isinstance(rate, float) for rate in module.rates(0.3).values())


def check_prepare(part: Objective) -> None:
    """`prepare` is reproducible from the generator and does not write to the batch."""
    _, module = example_model(part)
    batch = example_batch()
    before = batch.ids.clone()
    first, second = prepare(module, batch), prepare(module, batch)
    assert torch.equal(batch.ids, before), "prepare changed its argument"
    assert torch.equal(first.ids, second.ids)
    assert first.extra.keys() == second.extra.keys()
    assert all(torch.equal(first.extra[key], second.extra[key]) for key in first.extra)


def check_terms(part: Objective) -> None:
    """Terms are scalars whose counts are those of `counts`, and their normalised sum is the reported loss."""
    model, module = example_model(part)
    batch = prepare(module, example_batch())
    terms, counts = module(model, batch), module.counts(batch)
    learned = {name: int(term.count) for name, term in terms.items() if term.weight}
    assert learned, "no term is learned from"
    assert learned == {name: int(n) for name, n in counts.items()}
    assert all(term.total.ndim == 0 for term in terms.values())
    loss = normalised_loss(terms, sum_counts([counts])).item()
    assert math.isclose(loss, step_metrics([terms])["loss"], rel_tol=1e-5)


def check_gradients(part: Objective) -> None:
    """The loss has a gradient for the encoder's weights."""
    model, module = example_model(part)
    batch = prepare(module, example_batch())
    torch.autograd.backward(normalised_loss(module(model, batch), module.counts(batch)))
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.encoder.parameters()]
    assert sum(reached) > 0.8 * len(reached), (
        f"{len(reached) - sum(reached)} of {len(reached)} weights have no gradient"
    )


def check_evaluation(part: Objective) -> None:
    """Held-out text is judged by terms whose means are numbers, alike for equal generators, and without gradients."""
    model, module = example_model(part)
    whole = example_batch()
    positions = torch.tensor([3, 17, 45, 60, 80])
    masked = whole.ids.index_fill(0, positions, MASK_ID)
    batch = whole.with_ids(masked, masked_positions=positions, labels=whole.ids[positions])

    def judge() -> dict[str, float]:
        with torch.no_grad():
            return step_metrics([module.evaluate(model.eval(), batch, torch.Generator().manual_seed(5))])

    module.eval()
    with torch.no_grad():
        fed = module.evaluate_fed(model.eval(), example_batch(), torch.Generator().manual_seed(5))
    assert not any(term.weight for term in fed.values()), "evaluate_fed returns a term with a weight"
    first = judge()
    assert first == judge()
    assert any(name != "loss" for name in first), "no term but the loss"
    means = module.heldout_metrics(first, 0.25)
    assert math.isfinite(means["loss"])
    assert torch.equal(batch.ids, masked), "evaluate changed its argument"


def check_expected_loss_and_memory(part: Objective) -> None:
    """`expected_loss` is a range or None, and `activation_bytes` is not negative."""
    expected = part.expected_loss(RunSize(6.2, 1_400_000, 8192, 2_000_000, 1000))
    assert expected is None or 0 < expected.low < expected.high
    assert part.activation_bytes(_settings(part, 2), 1000, 50) >= 0


def check_loss_falls(part: Objective) -> None:
    """Twelve steps of AdamW on one batch lower the loss by at least 30 %."""
    model, module = example_model(part, depth=1)
    batch = prepare(module, example_batch(), progress=0.0)
    optimizer = torch.optim.AdamW([*model.parameters(), *module.parameters()], lr=1e-2)
    losses = []
    for _ in range(12):
        loss = normalised_loss(module(model, batch), module.counts(batch))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f}"
