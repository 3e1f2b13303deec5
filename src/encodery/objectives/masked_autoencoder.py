"""The encoder never sees a [MASK]; a small decoder, thrown away later, predicts the hidden tokens. arXiv:2302.02060

MAE-LM, and the final form of 3ML (arXiv:2211.04898, which hides half of the tokens): the encoder spends neither time
nor dimensions on [MASK]s. The decoder's layers are of the model's own kind; they see what the encoder made of the real
tokens and, in the place of each hidden one, one trained vector, each with its position. The model's own
masked-language-model head scores what the decoder gives. Differs from `mask_late`: the decoder is no part of the model.
Shapes: T tokens, S tokens that are no [MASK], H width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.corrupt import Vocabulary
from encodery.model import count
from encodery.model.blocks import BlockModule
from encodery.model.masks.document import DocumentMask
from encodery.model.network import Model, ModelSettings
from encodery.model.shape import Batch, Output
from encodery.objectives import ObjectiveModule
from encodery.objectives._masked import MaskedObjective, MaskedObjectiveModule
from encodery.objectives._visible import LateMasks, VisibleTokens

START = 0.02  # spread of the vector's initial values


@dataclass(frozen=True, kw_only=True)
class MaskedAutoencoder(MaskedObjective):
    """`depth`: layers of the decoder."""

    depth: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 1:
            raise SettingsError(f"objective.depth = {self.depth}: the decoder needs at least one layer.")

    def build(self, model: ModelSettings, vocabulary: Vocabulary) -> ObjectiveModule:
        """The module, with the decoder's weights."""
        return _MaskedAutoencoderModule(self, model, vocabulary)

    def num_parameters(self, model: ModelSettings) -> int:
        """Those of the decoder."""
        with torch.device("meta"):
            return sum(p.numel() for p in _Decoder(model, self.depth).parameters())


class _MaskedAutoencoderModule(MaskedObjectiveModule):
    keeps_mlm_head = False

    def __init__(self, settings: MaskedAutoencoder, model: ModelSettings, vocabulary: Vocabulary) -> None:
        super().__init__(settings, model, vocabulary)
        self.depth = settings.depth
        self.init, self.shape = model.init, model.shape
        self.decoder = _Decoder(model, settings.depth)

    def init_weights(self, generator: torch.Generator) -> None:
        """See `ObjectiveModule`."""
        self.init.apply(self.decoder, self.shape, generator)
        nn.init.normal_(self.decoder.mask, std=START, generator=generator)

    def encode(self, model: Model, batch: Batch) -> Output:
        """See `ObjectiveModule`."""
        parts = VisibleTokens(batch, self.mask_id)
        found: Output = model.encoder(batch, sequence_transform=LateMasks(parts, None))
        return Output(self.decoder(found.hidden, parts))

    def _flops(self, model: ModelSettings, length: float, predicted: float, left_out: float) -> float:
        silent = dataclasses.replace(model, head=None)
        encoder = count.flops_per_token(silent, length, early=(model.depth, 1 - left_out))
        decoder = count.flops_per_token(
            dataclasses.replace(model, depth=self.depth, mask=DocumentMask()), length, predicted
        )
        # The embeddings' part of both is done once.
        return encoder + decoder - count.flops_per_token(dataclasses.replace(silent, depth=0), length)


class _Decoder(nn.Module):
    """The encoder's output (S, H) → (T, H)."""

    def __init__(self, model: ModelSettings, depth: int) -> None:
        super().__init__()
        # A table of positions is added here at the model's width, where the embeddings have their own.
        shape = dataclasses.replace(model.shape, embedding_size=model.width)
        self.mask = nn.Parameter(torch.empty(model.width))
        self.positions = model.positions.build(shape)
        self.blocks = nn.ModuleList(
            model.block.build(
                # The numbers go on behind the encoder's: a part that treats the first layer apart means the model's.
                shape.for_layer(model.depth + layer, None),
                attention=model.attention,
                ffn=model.ffn,
                norm=model.norm,
                dropout=model.dropout,
            )
            for layer in range(depth)
        )
        self.final_norm = model.block.final(shape, model.norm)

    def forward(self, x: Tensor, parts: VisibleTokens) -> Tensor:
        whole = parts.join(x, self.mask.expand(parts.masked.numel(), -1))
        whole = self.positions.add(whole, parts.whole)
        for block in self.blocks:
            assert isinstance(block, BlockModule)
            whole = block.run("block", block, whole, parts.whole, self.positions)
        found: Tensor = self.final_norm(whole)
        return found
