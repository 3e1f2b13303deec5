"""A decoder: layers of the model's kind that attend from left to right and read a memory. arXiv:1706.03762

Differs from the encoder: it has no table of tokens (its input is the encoder's token embeddings), its self-attention
may be causal, and its layers may read a memory. Shapes: T tokens, M tokens of the memory, H width.
"""

from __future__ import annotations

from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.model.blocks import BlockModule
from encodery.model.decoder_settings import DecoderSettings
from encodery.model.heads import LMHeadModule
from encodery.model.memory import Memory
from encodery.model.settings import ModelSettings
from encodery.model.shape import Layout


class Decoder(nn.Module):
    """The layers of a decoder for a model with these settings. Positions are its own."""

    def __init__(self, settings: DecoderSettings, model: ModelSettings) -> None:
        super().__init__()
        layers = settings.layer_shapes(model.shape)
        shape = layers[0]
        self.positions = model.positions.build(shape)
        self.embedding_norm = model.norm.build(model.width) if settings.embedding_norm else nn.Identity()
        self.blocks = nn.ModuleList(
            model.block.build(
                layer,
                attention=model.attention,
                ffn=model.ffn,
                norm=model.norm,
                dropout=model.dropout,
            )
            for layer in layers
        )
        self.final_norm = model.block.final(shape, model.norm)
        self.head = None if settings.head is None else settings.head.build(model.shape, model.norm)

    @property
    def lm_head(self) -> LMHeadModule:
        """The head. Raises `SettingsError` if the decoder has none."""
        if self.head is None:
            raise SettingsError("This decoder has no head: set decoder.head.")
        return self.head

    def forward(self, x: Tensor, layout: Layout, memory: Memory | None = None) -> Tensor:
        """Inputs (T, H) without positions → hidden states (T, H).

        Raises `InputError` if the layers read a memory and there is none, or one of another number of sequences.
        """
        x = self.embedding_norm(self.positions.add(x, layout))
        for block in self.blocks:
            assert isinstance(block, BlockModule)
            x = block.run("block", block, x, layout, self.positions, memory)
        output: Tensor = self.final_norm(x)
        return output
