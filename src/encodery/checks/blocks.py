"""Checks of blocks, each as layer 1 of 2 with full attention, an MLP and layer norms. Shapes: T tokens, H width."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from encodery.base.errors import InputError
from encodery.base.settings import decode, encode
from encodery.model.attention.full import FullAttention
from encodery.model.blocks import ActivationCheckpointing, Block, BlockModule, set_activation_checkpointing
from encodery.model.extensions import SublayerAdapter
from encodery.model.ffn.mlp import MLP
from encodery.model.init.normal import NormalInit
from encodery.model.memory import Memory
from encodery.model.norms.layer import LayerNorm
from encodery.model.positions.none import NoPositions
from encodery.model.shape import Batch, Layout, Shape

SHAPE = Shape(
    vocab_size=9,
    width=12,
    depth=2,
    heads=3,
    head_size=4,
    intermediate_size=8,
    max_length=9,
    type_vocab_size=0,
    embedding_size=12,
    layer=1,
)
LENGTHS = (4, 3)
POSITIONS = NoPositions().build(SHAPE)
CHECKPOINTED: tuple[ActivationCheckpointing, ...] = ("attention", "ffn", "block")


class _Doubling(SublayerAdapter):
    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return 2 * y


def example(part: Block, std: float = 0.5, dropout: float = 0.0) -> BlockModule:
    """Return a module in training mode with random weights of that standard deviation, in fp64."""
    module = part.build(SHAPE, attention=FullAttention(), ffn=MLP(), norm=LayerNorm(), dropout=dropout)
    NormalInit(std=std).apply(module, SHAPE, torch.Generator().manual_seed(0))
    return module.double()


def example_states() -> Tensor:
    """Return hidden states (7, 12) of sequences of `LENGTHS`, which need a gradient, in fp64."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(sum(LENGTHS), 12, dtype=torch.float64, generator=generator).requires_grad_()


def layout(*lengths: int) -> Layout:
    """Return the layout of sequences of these lengths."""
    return Batch.from_sequences([[0] * length for length in lengths]).layout


def check_settings_round_trip(part: Block) -> None:
    """The part is what its settings decode to."""
    assert decode(Block, encode(part)) == part


def check_names_of_sublayers(part: Block) -> None:
    """The module has the children `attention`, `attention_norm`, `ffn` and `ffn_norm`."""
    missing = {"attention", "attention_norm", "ffn", "ffn_norm"} - dict(example(part).named_children()).keys()
    assert not missing, f"the block lacks {', '.join(sorted(missing))}"


def check_input_is_not_modified(part: Block) -> None:
    """The output has the shape of the input, which is not written to."""
    x = example_states()
    before = x.detach().clone()
    assert example(part)(x, layout(*LENGTHS), POSITIONS).shape == x.shape
    assert torch.equal(x.detach(), before), "the input was changed"


def check_packed_equals_alone(part: Block) -> None:
    """Sequences of a packed batch get the outputs that they get alone."""
    module, x = example(part), example_states()
    alone = [module(states, layout(len(states)), POSITIONS) for states in torch.split(x, list(LENGTHS))]
    torch.testing.assert_close(module(x, layout(*LENGTHS), POSITIONS), torch.cat(alone), rtol=1e-9, atol=1e-10)


def check_gradient(part: Block) -> None:
    """The gradient is that of finite differences."""
    module = example(part)
    torch.autograd.gradcheck(lambda x: module(x, layout(*LENGTHS), POSITIONS), (example_states(),), fast_mode=True)


def check_dropout_in_training_only(part: Block) -> None:
    """Dropout changes the output in training mode and not in evaluation mode."""
    module, x = example(part, dropout=0.5), example_states()
    expected = example(part)(x, layout(*LENGTHS), POSITIONS)
    torch.manual_seed(0)
    assert not torch.equal(module(x, layout(*LENGTHS), POSITIONS), expected), "dropout has no effect in training"
    assert torch.equal(module.eval()(x, layout(*LENGTHS), POSITIONS), expected), "dropout acts in evaluation"


def check_adapters(part: Block) -> None:
    """The outputs of both sublayers pass through `after_attention` and `after_ffn`."""
    x = example_states()
    plain = example(part)(x, layout(*LENGTHS), POSITIONS)
    for name in ("after_attention", "after_ffn"):
        module = example(part)
        module.register_module(name, _Doubling())
        assert not torch.allclose(module(x, layout(*LENGTHS), POSITIONS), plain), f"{name} is not applied"


def check_activation_checkpointing(part: Block) -> None:
    """Recomputing a sublayer or the block in the backward pass changes neither output nor gradients."""
    expected: list[Tensor] = []
    for what in ("nothing", *CHECKPOINTED):
        module, x = example(part, dropout=0.5), example_states()
        set_activation_checkpointing(module, what)
        torch.manual_seed(0)
        output = module(x, layout(*LENGTHS), POSITIONS)
        results = [output, *torch.autograd.grad(output.square().sum(), [x, *module.parameters()])]
        expected = expected or results
        assert all(map(torch.equal, results, expected)), f"recomputing '{what}' changes the result"


def check_final(part: Block) -> None:
    """What follows the last block keeps the shape (T, H) and treats tokens separately."""
    module, x = part.final(SHAPE, LayerNorm()).double(), example_states()
    output = module(x)
    assert output.shape == x.shape
    torch.testing.assert_close(module(x[2:3]), output[2:3])


def check_memory(part: Block) -> None:
    """A layer whose shape reads a memory reads the memory of the same sequence, and refuses a batch without one."""
    shape = dataclasses.replace(SHAPE, reads_memory=True)
    module = part.build(shape, attention=FullAttention(), ffn=MLP(), norm=LayerNorm(), dropout=0.0)
    assert module.cross_attention is not None, "a layer that reads a memory has no cross_attention"
    NormalInit(std=0.5).apply(module, SHAPE, torch.Generator().manual_seed(0))
    states = torch.randn(7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    memory = Memory(states, layout(2, 5))
    y = module.double()(example_states(), layout(*LENGTHS), POSITIONS, memory)
    (grad,) = torch.autograd.grad(y[: LENGTHS[0]].square().sum(), states)
    assert grad[:2].any(), "a sequence does not read its memory"
    assert not grad[2:].any(), "a sequence reads the memory of another sequence"
    try:
        module(example_states(), layout(*LENGTHS), POSITIONS)
    except InputError:
        return
    raise AssertionError("a layer that reads a memory runs without one")
