"""The encoder never sees a [MASK]; a small decoder, dropped after training, predicts the masked tokens.

MAE-LM (arXiv:2302.02060), and the final form of 3ML (arXiv:2211.04898, which masks half of the tokens): the encoder
spends neither time nor dimensions on [MASK]s. The decoder has layers of the model's own kind. It reads the
encoder's output for the real tokens and one trained vector at each masked position, with position information added.
The model's own masked-language-model head turns its output into logits. Differs from `mask_late`: the decoder is no
part of the model. Shapes: T tokens, S tokens that are no [MASK], H width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn

from encodery.base.settings import check_at_least
from encodery.corrupt import Vocabulary
from encodery.model import count
from encodery.model.decoder import Decoder
from encodery.model.decoder_settings import DecoderSettings
from encodery.model.network import Model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output
from encodery.objectives import ObjectiveModule
from encodery.objectives._decoder_layers import decoder_layers
from encodery.objectives._masked import MaskedObjective, MaskedObjectiveModule
from encodery.objectives._visible import LateMasks, VisibleTokens

MASK_STD = 0.02  # standard deviation of the mask vector's initial values


@dataclass(frozen=True, kw_only=True)
class MaskedAutoencoder(MaskedObjective):
    """Use it to pre-train an encoder for text without [MASK]s, such as for fine-tuning. `depth`: the number of layers
    of the decoder.

        objective.is=masked_autoencoder objective.depth=2 objective.corruption.rate=0.5
    """

    depth: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "depth")

    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        return _MaskedAutoencoderModule(self, model, vocabulary)

    def num_parameters(self, model: ModelSettings) -> int:
        """Return the number of weights of the decoder."""
        with torch.device("meta"):
            return sum(p.numel() for p in _decoder(model, self.depth).parameters()) + model.width

    def activation_bytes(self, model: ModelSettings, tokens: int, length: int) -> int:
        """See `Objective`: what the layers of the decoder keep."""
        with_head = decoder_layers(model, self.depth, head=None)
        return count.activation_bytes(with_head, tokens, length)


class _MaskedAutoencoderModule(MaskedObjectiveModule):
    keeps_heads = False

    def __init__(self, settings: MaskedAutoencoder, model: ModelSettings, vocabulary: Vocabulary) -> None:
        super().__init__(settings, model, vocabulary)
        self.depth = settings.depth
        self.init, self.shape = model.init, model.shape
        self.mask = nn.Parameter(torch.empty(model.width))
        self.decoder = _decoder(model, settings.depth)

    def init_weights(self, generator: torch.Generator) -> None:
        self.init.apply(self.decoder, self.shape, generator)
        nn.init.normal_(self.mask, std=MASK_STD, generator=generator)

    def encode(self, model: Model, batch: Batch) -> Output:
        split = VisibleTokens(batch, self.mask_id)
        output: Output = model.encoder(batch, sequence_transform=LateMasks(split, None))
        whole = split.join(output.hidden, self.mask.expand(split.masked.numel(), -1))
        return Output(self.decoder(whole, split.whole), auxiliary=output.auxiliary)

    def pass_flops(self, model: ModelSettings, length: float, predicted: float, masked: float) -> float:
        headless = dataclasses.replace(model, head=None)
        encoder = count.flops_per_token(headless, length, early=(model.depth, 1 - masked))
        own = decoder_layers(model, self.depth)
        decoder = count.flops_per_token(own, length, predicted)
        # Both counts contain the embeddings, which are computed once.
        return encoder + decoder - count.flops_per_token(headless.with_depth(0), length)


def _decoder(model: ModelSettings, depth: int) -> Decoder:
    """Layers (T, H) → (T, H) that attend to both sides and read no memory; the model's head follows them."""
    return Decoder(DecoderSettings(depth=depth, causal=False, memory=False, head=None), model)
