"""Terms that sublayers add to the loss, and the mixture of experts whose router has one."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from encodery.checks.objectives import MASK_ID, NUM_SPECIAL, VOCAB_SIZE, example_batch, prepare
from encodery.corrupt import Vocabulary
from encodery.model import count
from encodery.model.blocks import ActivationCheckpointing, set_activation_checkpointing
from encodery.model.ffn.glu import GLU
from encodery.model.ffn.mixture import Mixture, balance
from encodery.model.ffn.mlp import MLP
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.objectives import LossTerm, normalised_loss
from encodery.objectives.mlm import MaskedLM

SIZES = ModelSettings(width=32, depth=3, heads=2, vocab_size=VOCAB_SIZE, max_length=64)
MIXED = dataclasses.replace(SIZES, ffn=Mixture(expert=MLP(), experts=4, balance_weight=0.5))


def step(model: Model) -> tuple[dict[str, LossTerm], dict[str, Tensor]]:
    """The terms of a pass, and the gradients of its loss."""
    every = torch.ones(VOCAB_SIZE, dtype=torch.bool)
    vocabulary = Vocabulary(MASK_ID, torch.arange(VOCAB_SIZE) < NUM_SPECIAL, VOCAB_SIZE, every)
    module = MaskedLM().build(model.settings, vocabulary)
    batch = prepare(module, example_batch())
    terms = module(model, batch)
    torch.autograd.backward(normalised_loss(terms, module.all_counts(model, batch)))
    return terms, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_balance_is_a_term_in_training_only_and_its_gradient_reaches_every_router() -> None:
    model = build_model(MIXED)
    terms, gradients = step(model)
    assert terms["balance"].weight == 0.5
    assert int(terms["balance"].count) == 100
    assert 3 <= float(terms["balance"].total.detach()) / 100 < 3 * 4
    assert all(gradients[f"encoder.blocks.{layer}.ffn.router.weight"].abs().sum() > 0 for layer in range(3))
    assert not model.eval()(example_batch()).auxiliary


@pytest.mark.parametrize("what", get_args(ActivationCheckpointing))
def test_recomputed_layers_add_their_terms_once(what: ActivationCheckpointing) -> None:
    expected_terms, expected = step(build_model(MIXED))
    model = build_model(MIXED)
    set_activation_checkpointing(model, what)
    terms, gradients = step(model)
    assert terms.keys() == expected_terms.keys()
    torch.testing.assert_close(terms["balance"].total, expected_terms["balance"].total, rtol=0, atol=0)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-6, atol=1e-7)
    copy.deepcopy(model)  # Nothing of the graph is left in a module.


def test_the_balance_is_one_if_the_load_is_even_and_the_number_of_experts_if_one_has_all() -> None:
    even, one = torch.full((8, 4), 0.25), torch.eye(4)[[2] * 8]
    assert balance(even, torch.arange(8)[:, None] % 4).item() == 1.0
    assert balance(one, torch.full((8, 1), 2)).item() == 4.0


def test_a_single_expert_is_a_perceptron() -> None:
    mixture, plain = Mixture(expert=MLP(), experts=1).build(SIZES.shape), MLP().build(SIZES.shape)
    SIZES.init.apply(mixture, SIZES.shape, torch.Generator().manual_seed(0))
    expert = mixture.get_submodule("experts.0")
    plain.load_state_dict(expert.state_dict())
    x = torch.randn(7, 32)
    torch.testing.assert_close(mixture(x), plain(x))


def test_a_token_reads_its_experts_alone() -> None:
    mixture = Mixture(expert=MLP(), experts=4, top_k=2).build(SIZES.shape)
    SIZES.init.apply(mixture, SIZES.shape, torch.Generator().manual_seed(0))
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    chosen = mixture.get_submodule("router")(x).topk(2).indices
    before = mixture(x)
    with torch.no_grad():
        mixture.get_submodule("experts.1.down").weight.mul_(2)  # type: ignore[operator, union-attr]
    changed = (mixture(x) != before).any(1)
    assert torch.equal(changed, (chosen == 1).any(1))


@pytest.mark.parametrize("top_k", [1, 2])
def test_outputs_are_weighted_by_the_router(top_k: int) -> None:
    """By its probability with one expert per token, by probabilities that sum to one with several."""
    module: Any = Mixture(expert=GLU(), experts=4, top_k=top_k).build(SIZES.shape)
    SIZES.init.apply(module, SIZES.shape, torch.Generator().manual_seed(0))
    with torch.no_grad():
        module.router.weight.mul_(50)
    x = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    for states in x:
        probabilities = module.router(states).softmax(-1)
        gates, chosen = probabilities.topk(top_k)
        gates = gates / gates.sum() if top_k > 1 else gates
        expected = sum(gate * module.experts[int(number)](states) for gate, number in zip(gates, chosen, strict=True))
        torch.testing.assert_close(module(states[None])[0], expected)
    module(x).sum().backward()
    assert module.router.weight.grad.any(), "the router learns from the loss, through the gates"


def test_operations_are_those_of_the_active_experts() -> None:
    one, several = (
        count.flops_per_token(dataclasses.replace(SIZES, ffn=Mixture(expert=MLP(), experts=n)), 20.0, backward=False)
        for n in (1, 4)
    )
    assert round(several - one) == 3 * 2 * 32 * 3
    both = count.flops_per_token(
        dataclasses.replace(SIZES, ffn=Mixture(expert=MLP(), experts=4, top_k=2)), 20.0, backward=False
    )
    assert round(both - several) == 3 * 4 * 32 * 128
    added = count.num_parameters(MIXED) - count.num_parameters(SIZES)
    assert added == 3 * (3 * (2 * 32 * 128 + 128 + 32) + 4 * 32)
