"""Replaced-token detection: what is shared, where gradients flow, what is drawn, and what is reported."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from encodery.checks.objectives import MASK_ID, example_batch, example_model, prepare
from encodery.model import count
from encodery.model.network import Model
from encodery.model.positions.alibi import ALiBi
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.objectives import ObjectiveModule, normalised_loss, step_metrics
from encodery.objectives._generator import Generator, generator_settings
from encodery.objectives.replaced_tokens import ReplacedTokens


def example(**settings: float) -> tuple[Model, ObjectiveModule, Batch]:
    model, module = example_model(ReplacedTokens(**settings))  # type: ignore[arg-type]
    return model, module, prepare(module, example_batch())


def test_the_generator_has_no_tables_and_trains_those_of_the_model() -> None:
    model, module, batch = example(weight=0.0)
    sizes = {tensor.numel() for tensor in module.state_dict().values()}
    assert model.encoder.token_embeddings.numel() not in sizes
    assert not any("positions" in name or "word" in name for name in module.state_dict())
    torch.autograd.backward(normalised_loss(module(model, batch), module.counts(batch)))
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert trained == {"encoder.embeddings.word.weight", "encoder.positions.table.weight"}


def test_positions_that_depend_on_the_number_of_heads_are_the_generators_own() -> None:
    model = ModelSettings(width=32, depth=1, heads=4, vocab_size=50, max_length=16, positions=ALiBi())
    generator = Generator(generator_settings(model, 0.25), model)
    assert not generator.shares_positions
    assert generator.network.settings.heads == 1


def test_no_gradient_of_the_detection_reaches_the_generator() -> None:
    model, module, batch = example()
    terms = module(model, batch)
    terms["detection"].total.backward()
    assert all(p.grad is None for p in module.parameters())


def test_tokens_are_drawn_from_the_generators_distribution() -> None:
    _, module, _ = example()
    generator = module.get_submodule("generator")
    assert isinstance(generator, Generator)
    features = torch.randn(1, 32, generator=torch.Generator().manual_seed(3)) * 0.5
    weight, bias = generator.network.mlm_head.decoder(generator.network.encoder)
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)) * 0.5)
    probability = F.linear(features, weight, bias).softmax(1)[0]
    draws = (torch.arange(20_000) + 0.5) / 20_000
    drawn = generator.draw(features.expand(20_000, -1), draws)
    torch.testing.assert_close(drawn.bincount(minlength=len(probability)) / 20_000, probability, rtol=0, atol=2e-4)


def test_the_model_reads_what_was_drawn_and_is_asked_where_it_differs_from_the_text() -> None:
    model, module, batch = example()
    whole = example_batch()
    seen: list[Batch] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    terms = module(model.eval(), batch)
    (read,) = seen
    assert not (read.ids == MASK_ID).any()
    replaced = read.ids != whole.ids
    assert torch.equal(read.extra["replaced"], replaced)
    assert set(replaced.nonzero().flatten().tolist()) <= set(batch.extra["masked_positions"].tolist())
    with torch.no_grad():
        scores = model.extra_head("replaced_tokens")(model(read).hidden, read.layout)
    expected = F.binary_cross_entropy_with_logits(scores, replaced.float(), reduction="sum")
    torch.testing.assert_close(terms["detection"].total.detach(), expected)
    metrics = step_metrics([terms])
    assert metrics["accuracy"] == ((scores > 0) == replaced).double().mean().item()
    assert abs(metrics["replaced"] - replaced.double().mean().item()) < 1e-9
    assert abs(metrics["loss"] - metrics["mlm"] - 50 * metrics["detection"]) < 1e-6


def test_a_token_that_is_drawn_as_it_was_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    model, module, batch = example()
    labels = batch.extra["labels"]
    drawn = labels.clone()
    drawn[0] = (labels[0] + 1) % model.settings.vocab_size
    for tokens, replaced in ((labels, 0), (drawn, 1)):
        monkeypatch.setattr(module.generator, "draw", lambda *_, tokens=tokens: tokens)
        terms = module(model, batch)
        assert int(terms["replaced"].total) == replaced


def test_held_out_text_is_judged_at_its_fixed_masks() -> None:
    model, module, _ = example()
    whole, positions = example_batch(), torch.tensor([3, 17, 45])
    masked = whole.ids.index_fill(0, positions, MASK_ID)
    batch = whole.with_ids(masked, masked_positions=positions, labels=whole.ids[positions])
    with torch.no_grad():
        terms = module.evaluate(model.eval(), batch, torch.Generator().manual_seed(1))
    assert {name: int(term.count) for name, term in terms.items() if name != "recall"} == {
        "mlm": 3,
        "detection": 100,
        "accuracy": 100,
        "replaced": 100,
    }
    assert int(terms["replaced"].total) == int(terms["recall"].count) <= 3


def test_operations_and_memory_count_the_generator() -> None:
    model, module, _ = example()
    alone = count.flops_per_token(model.settings, 20.0)
    assert module.flops(model.settings, 20.0, 0.5) > alone * 1.05
    wide, narrow = (ReplacedTokens(generator_size=size) for size in (1.0, 0.25))
    assert wide.activation_bytes(model.settings, 100, 20) > narrow.activation_bytes(model.settings, 100, 20) > 0
