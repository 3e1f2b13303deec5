"""The encoder: embeddings, blocks and a final norm, assembled from parts. Nothing here depends on which parts they are.

Shapes: T tokens, V vocabulary, H width, E embedding size.
"""

from __future__ import annotations

from typing import TypeVar, cast

from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.model.auxiliary import AuxiliaryTerm, add_terms, open_sublayers
from encodery.model.blocks import BlockModule
from encodery.model.extensions import ExtensionModules, IdentityAdapter
from encodery.model.sequence_transform import IdentityTransform, SequenceTransform
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output

M = TypeVar("M", bound=nn.Module)


class Encoder(nn.Module):
    """Computes the hidden states (T, H) of a packed batch."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        shape = settings.shape
        norm = settings.norm
        self.embeddings = settings.embeddings.build(shape)
        self.positions = settings.positions.build(shape)
        self.embedding_norm = norm.build(shape.embedding_size) if settings.embedding_norm else nn.Identity()
        self.drop = nn.Dropout(settings.dropout) if settings.dropout else nn.Identity()
        self.blocks = nn.ModuleList(
            settings.block.build(
                layer_shape,
                attention=settings.attention,
                ffn=settings.ffn,
                norm=norm,
                dropout=settings.dropout,
            )
            for layer_shape in settings.block_shapes
        )
        self.groups = settings.groups
        self.final_norm = settings.block.final(shape, norm)
        self.sequence_transform: SequenceTransform = IdentityTransform()
        for extension in settings.extensions:
            self.install(extension.build(shape))

    def install(self, modules: ExtensionModules) -> None:
        """Put the modules of an extension in their places. Raises `SettingsError` if a place is occupied."""
        if modules.sequence_transform is not None:
            self.sequence_transform = self._transform_for(modules.sequence_transform)
        for (layer, sublayer), module in modules.sublayer_adapters.items():
            block = self.blocks[layer]
            assert isinstance(block, BlockModule)
            name = f"after_{sublayer}"
            where = f"the {sublayer} sublayer of layer {layer}"
            setattr(block, name, _replacing(getattr(block, name), IdentityAdapter, module, where))

    @property
    def layer_blocks(self) -> list[BlockModule]:
        """The block of each layer, in order; `blocks` has each only once."""
        blocks = [self.blocks[group] for group in self.groups]
        assert all(isinstance(block, BlockModule) for block in blocks)
        return cast("list[BlockModule]", blocks)

    @property
    def shares_layers(self) -> bool:
        """Whether several layers have the same weights."""
        return len(self.blocks) < len(self.groups)

    @property
    def token_embeddings(self) -> Tensor:
        """The token embeddings (V, E)."""
        return self.embeddings.token_embeddings

    def forward(
        self, batch: Batch, keep_layers: bool = False, sequence_transform: SequenceTransform | None = None
    ) -> Output:
        """Return the hidden states of a batch.

        Args:
            batch: The packed sequences.
            keep_layers: Whether to return the output of the embeddings and of each block too.
            sequence_transform: One for this pass only. Raises `SettingsError` if the model has one already.
        """
        transform = self.sequence_transform if sequence_transform is None else self._transform_for(sequence_transform)
        layout = batch.layout
        x = self.positions.add(self.embeddings(batch.ids, batch.segment), layout)
        x, layout = transform.transform(self.embeddings.widen(self.drop(self.embedding_norm(x))), layout)
        outputs = [(x, layout)]
        auxiliary: dict[str, AuxiliaryTerm] = {}
        for layer, block in enumerate(self.layer_blocks):
            x, layout = transform.before_layer(x, layout, layer)
            sublayers = open_sublayers(block)
            x = block.run("block", block, x, layout, self.positions)
            auxiliary = add_terms(auxiliary, sublayers)
            outputs.append((x, layout))
        hidden = transform.restore(self.final_norm(x), layout)
        layers = tuple(transform.restore(*output) for output in outputs) if keep_layers else None
        return Output(hidden, layers, auxiliary=auxiliary)

    def _transform_for(self, module: SequenceTransform) -> SequenceTransform:
        return _replacing(self.sequence_transform, IdentityTransform, module, "the place before the first layer")


def _replacing(current: nn.Module, identity: type[nn.Module], module: M, where: str) -> M:
    """Return `module` for the place that `current` holds. Raises `SettingsError` unless that is the identity."""
    if not isinstance(current, identity):
        raise SettingsError(f"extensions: {where} is already occupied; only one extension can use it.")
    return module
