"""Checks of attentions, each with every reach of `REACHES` that the attention does not refuse."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from encodery.base.errors import SettingsError
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.checks import raised_message
from encodery.model.attention import Attention, AttentionModule
from encodery.model.init.normal import NormalInit
from encodery.model.positions import Positions
from encodery.model.positions.none import NoPositions
from encodery.model.reach import Reach
from encodery.model.shape import Batch, Layout, Shape
from encodery.model.weights import LinearLayer

SHAPE = Shape(
    vocab_size=9,
    width=12,
    depth=2,
    heads=3,
    head_size=4,
    intermediate_size=8,
    max_length=40,
    type_vocab_size=0,
    embedding_size=12,
    layer=1,
)
LENGTHS = (20, 19, 18, 7, 1)
REACHES = (
    Reach(),
    Reach(3, 3),
    Reach(5, 2),
    Reach(right=0),
    Reach(3, 0, sinks=2),
    Reach(right=0, prefix=4),
    Reach(2, 2, global_positions=(0, 9)),
)
NO_POSITIONS = NoPositions()
POSITIONS = NO_POSITIONS.build(SHAPE)


def example(part: Attention, reach: Reach) -> tuple[AttentionModule, Tensor, Layout]:
    """Return a module with random weights, hidden states (T, H) that need a gradient, and their layout, in fp64."""
    module = part.build(SHAPE.for_layer(1, reach))
    NormalInit(std=0.5).apply(module, SHAPE, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(LENGTHS), 12, dtype=torch.float64, generator=generator).requires_grad_()
    return module.double(), x, layout(*LENGTHS)


def accepted_reaches(part: Attention) -> list[Reach]:
    """Return those of `REACHES` that the attention does not refuse; it must accept the whole document."""
    accepted = [reach for reach in REACHES if part.incompatibility(SHAPE.for_layer(1, reach), NO_POSITIONS) is None]
    assert Reach() in accepted, "the attention refuses to attend to the whole document"
    return accepted


def layout(*lengths: int) -> Layout:
    """Return the layout of sequences of these lengths."""
    return Batch.from_sequences([[0] * length for length in lengths]).layout


def check_settings_round_trip(part: Attention) -> None:
    """The part is what its settings decode to."""
    assert decode(Attention, encode(part)) == part


def check_input_is_not_modified(part: Attention) -> None:
    """The output has the shape of the input, which is not written to."""
    for reach in accepted_reaches(part):
        module, x, batch = example(part, reach)
        before = x.detach().clone()
        assert module(x, batch, POSITIONS).shape == x.shape
        assert torch.equal(x.detach(), before), "the input was changed"


def check_packed_equals_alone(part: Attention) -> None:
    """Sequences of a packed batch get the outputs and gradients that they get alone."""
    for reach in accepted_reaches(part):
        module, x, batch = example(part, reach)
        packed = module(x, batch, POSITIONS)
        alone = torch.cat([module(one, layout(len(one)), POSITIONS) for one in torch.split(x, list(LENGTHS))])
        torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-10)
        grad = torch.randn(packed.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        (packed_grad,) = torch.autograd.grad(packed, x, grad)
        (alone_grad,) = torch.autograd.grad(alone, x, grad)
        torch.testing.assert_close(packed_grad, alone_grad, rtol=1e-9, atol=1e-10)


def check_documents_are_independent(part: Attention) -> None:
    """No gradient reaches a token of another document."""
    module, x, batch = example(part, Reach())
    (grad,) = torch.autograd.grad(module(x, batch, POSITIONS)[25].sum(), x)
    own = torch.zeros(len(x), dtype=torch.bool)
    own[20:39] = True
    assert not grad[~own].any(), "a token attends to another document"


def check_reach(part: Attention) -> None:
    """Gradients reach the tokens within reach, and no others."""
    for reach in accepted_reaches(part):
        module, x, batch = example(part, reach)
        (grad,) = torch.autograd.grad(module(x, batch, POSITIONS)[29].sum(), x)
        within = torch.zeros(len(x), dtype=torch.bool)
        within[20:39] = reach.allows(torch.tensor(9), torch.arange(19))
        reached = grad.any(1)
        assert not reached[~within].any(), f"a token attends to one outside {reach}"
        assert reached[within].all(), f"a token within {reach} is not attended to"


def check_reach_of_the_batch(part: Attention) -> None:
    """A batch whose attention is causal gets the results of a layer whose reach is, or is refused."""
    module, x, plain = example(part, Reach())
    causal = Layout(plain.cu_seqlens, plain.max_seqlen, plain.tokens, reach=Reach(right=0))
    if Reach(right=0) in accepted_reaches(part):
        expected = example(part, Reach(right=0))[0](x, plain, POSITIONS)
        torch.testing.assert_close(module(x, causal, POSITIONS), expected)
    else:
        raised_message(SettingsError, lambda: module(x, causal, POSITIONS))


def check_refusal_of_positions(part: Attention) -> None:
    """Positions that the attention does not refuse change its results, unless they are added to embeddings."""
    for name in part_names(Positions):
        kind = find_part(Positions, name)
        if any(setting.default is setting.empty for setting in inspect.signature(kind).parameters.values()):
            continue  # A composite of others has no default.
        positions = kind()
        if part.incompatibility(SHAPE, positions) is None and positions.kinds - {"embeddings"}:
            module, x, batch = example(part, Reach())
            changed = module(x, batch, positions.build(SHAPE).double())
            assert not torch.allclose(changed, module(x, batch, POSITIONS)), f"positions = '{name}' change nothing"


def check_cost(part: Attention) -> None:
    """`cost` counts the operations of the matrix products, and what is kept includes the inputs of linear layers."""
    x, batch = torch.randn(64, 12), layout(16, 16, 16, 16)
    module = part.build(SHAPE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x, batch, POSITIONS)
    counted, cost = counter.get_total_flops() / 64, part.cost(SHAPE, 16)
    assert abs(cost.flops - counted) <= 0.05 * counted, f"cost says {cost.flops} operations per token, not {counted}"
    inputs = sum(layer.in_features for layer in module.modules() if isinstance(layer, LinearLayer))
    assert cost.kept >= inputs, f"cost says that {cost.kept} numbers are kept, but linear layers keep {inputs}"
    assert part.cost(SHAPE, 64).flops >= cost.flops
    for reach in accepted_reaches(part):
        assert part.cost(SHAPE.for_layer(1, reach), 64).flops > 0


def check_head_weights(part: Attention) -> None:
    """`head_weights` are views of what each head computes with; the heads' outputs add up to the module's."""
    module, x, batch = example(part, Reach())
    heads = module.head_weights()
    assert len(heads) == SHAPE.heads, f"head_weights gives {len(heads)} heads, not {SHAPE.heads}"
    total = torch.zeros_like(x)
    for index, head in enumerate(heads):
        assert head.query.shape == head.key.shape == head.value.shape == (4, 12)
        assert head.out.shape == (12, 4)
        single, _, _ = example(part, Reach())
        for other, weights in enumerate(single.head_weights()):
            if other != index:
                weights.out.zero_()
        output = single(x, batch, POSITIONS)
        for sequence, states in zip(torch.split(output, list(LENGTHS)), torch.split(x, list(LENGTHS)), strict=True):
            scores = (states @ head.query.T) @ (states @ head.key.T).T / 2
            expected = scores.softmax(1) @ states @ head.value.T @ head.out.T
            torch.testing.assert_close(sequence, expected, rtol=1e-6, atol=1e-8)
        total = total + output
    torch.testing.assert_close(total, module(x, batch, POSITIONS), rtol=1e-6, atol=1e-8)
