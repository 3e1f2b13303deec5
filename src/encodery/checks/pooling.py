"""Checks of poolings. Shapes: T tokens, B sequences, H width."""

from __future__ import annotations

import torch
from torch import Tensor

from encodery.base.settings import decode, encode
from encodery.encoders.pooling import Pooling
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output

WIDTH = 16
LENGTHS = (1, 2, 3, 7, 7, 30)


def example_states() -> Tensor:
    """Hidden states (T, 16) of sequences of `LENGTHS`."""
    return torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(0))


def pool(part: Pooling, lengths: tuple[int, ...], hidden: Tensor) -> Tensor:
    """The vectors (B, H) of sequences of these lengths, with the same states in every layer."""
    torch.manual_seed(0)  # Parts can have random weights, which must be the same in each call.
    shape = ModelSettings(width=WIDTH, depth=2, heads=2, vocab_size=64, max_length=32).shape
    batch = Batch.from_sequences([[1] * length for length in lengths])
    pooled: Tensor = part.build(shape).eval()(Output(hidden, (hidden, hidden, hidden)), batch)
    return pooled


def check_each_sequence_is_pooled_by_itself(part: Pooling) -> None:
    """A sequence's vector does not depend on the other sequences of the batch."""
    hidden = example_states()
    together = pool(part, LENGTHS, hidden)
    assert together.shape == (len(LENGTHS), WIDTH), f"the shape is {tuple(together.shape)}"
    alone = [pool(part, (len(states),), states)[0] for states in torch.split(hidden, list(LENGTHS))]
    torch.testing.assert_close(together, torch.stack(alone))


def check_result_is_float32(part: Pooling) -> None:
    """The vectors are float32 whatever the type of the hidden states."""
    for hidden in (example_states(), example_states().bfloat16()):
        assert pool(part, LENGTHS, hidden).dtype == torch.float32, f"states of {hidden.dtype}"


def check_settings_round_trip(part: Pooling) -> None:
    """The settings are read back as they were written."""
    assert decode(Pooling, encode(part)) == part
