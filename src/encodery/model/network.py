"""The encoder: embeddings, blocks, final norm, put together from parts. No branch on any part's name.

Shapes: T tokens, H width, E embedding width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.attention import Attention
from encodery.model.attention.full import FullAttention
from encodery.model.blocks import Block, BlockModule
from encodery.model.blocks.post import PostNorm
from encodery.model.embeddings import Embeddings
from encodery.model.embeddings.plain import PlainEmbeddings
from encodery.model.extensions import ExtensionModules, ModelExtension, SequenceTransform, SublayerAdapter
from encodery.model.ffn import FFN
from encodery.model.ffn.mlp import MLP
from encodery.model.heads import LMHead, LMHeadModule
from encodery.model.heads.mlm import MLMHead
from encodery.model.init import Init
from encodery.model.init.normal import NormalInit
from encodery.model.masks import Mask
from encodery.model.masks.document import DocumentMask
from encodery.model.norms import Norm
from encodery.model.norms.layer import LayerNorm
from encodery.model.positions import Positions
from encodery.model.positions.learned import LearnedPositions
from encodery.model.shape import Batch, Output, Shape

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Sizes and parts of a model; the defaults are BERT's parts at a small size.

    `head_size` is width / heads and `inner` 4 · width where not given. `segments` = 0 leaves the segment table out.
    `extensions`: what was added to the finished encoder (adapters, prompts).
    """

    width: int = 256
    depth: int = 4
    heads: int = 4
    head_size: int | None = None
    intermediate_size: int | None = None
    vocab_size: int = 16_384
    max_length: int = 512
    type_vocab_size: int = 0
    dropout: float = 0.0
    embedding_norm: bool = True
    embeddings: Embeddings = field(default_factory=PlainEmbeddings)
    positions: Positions = field(default_factory=LearnedPositions)
    attention: Attention = field(default_factory=FullAttention)
    mask: Mask = field(default_factory=DocumentMask)
    ffn: FFN = field(default_factory=MLP)
    norm: Norm = field(default_factory=LayerNorm)
    block: Block = field(default_factory=PostNorm)
    init: Init = field(default_factory=NormalInit)
    head: LMHead | None = field(default_factory=MLMHead)
    extensions: tuple[ModelExtension, ...] = ()

    def __post_init__(self) -> None:
        for name in ("width", "heads", "vocab_size", "max_length"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} = {getattr(self, name)}: must be at least 1.")
        if self.depth < 0 or self.type_vocab_size < 0:
            raise SettingsError(f"depth = {self.depth}, segments = {self.type_vocab_size}: neither can be negative.")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout = {self.dropout}: must lie in 0 <= dropout < 1.")
        if self.head_size is None and self.width % self.heads:
            raise SettingsError(
                f"width = {self.width} is no multiple of heads = {self.heads}: change one or give head_size."
            )

    @property
    def shape(self) -> Shape:
        """The sizes, resolved."""
        return Shape(
            vocab_size=self.vocab_size,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            head_size=self.width // self.heads if self.head_size is None else self.head_size,
            intermediate_size=4 * self.width if self.intermediate_size is None else self.intermediate_size,
            max_length=self.max_length,
            type_vocab_size=self.type_vocab_size,
            embedding_size=self.embeddings.size(self.width),
        )


class Encoder(nn.Module):
    """A packed batch to hidden states (T, H)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        shape = settings.shape
        norm, mask = settings.norm, settings.mask
        self.embeddings = settings.embeddings.build(shape)
        self.positions = settings.positions.build(shape)
        self.embedding_norm = norm.build(shape.embedding_size) if settings.embedding_norm else nn.Identity()
        self.drop = nn.Dropout(settings.dropout) if settings.dropout else nn.Identity()
        self.blocks = nn.ModuleList(
            settings.block.build(
                shape.for_layer(layer, mask.window(layer, shape.depth)),
                attention=settings.attention,
                ffn=settings.ffn,
                norm=norm,
                dropout=settings.dropout,
            )
            for layer in range(shape.depth)
        )
        self.final_norm = settings.block.final(shape, norm)
        self.sequence_transform = SequenceTransform()
        for insert in settings.extensions:
            self.install(insert.build(shape))

    def install(self, modules: ExtensionModules) -> None:
        """Put an insert's modules in their places. Raises `SettingsError` for a place that is taken."""
        if modules.sequence_transform is not None:
            self.sequence_transform = _in_place_of(
                self.sequence_transform, SequenceTransform, modules.sequence_transform, "the front of the encoder"
            )
        for (layer, place), module in modules.sublayer_adapters.items():
            block = self.blocks[layer]
            assert isinstance(block, BlockModule)
            name = f"after_{place}"
            setattr(
                block, name, _in_place_of(getattr(block, name), SublayerAdapter, module, f"{place} of layer {layer}")
            )

    @property
    def token_embeddings(self) -> Tensor:
        """The word table (V, E)."""
        return self.embeddings.token_embeddings

    def forward(
        self, batch: Batch, keep_layers: bool = False, sequence_transform: SequenceTransform | None = None
    ) -> Output:
        """`keep_layers` also returns the embeddings' output and each block's. `front`: one for this pass alone, which
        raises `SettingsError` where the model has one of its own."""
        sequence_transform = (
            self.sequence_transform
            if sequence_transform is None
            else _in_place_of(
                self.sequence_transform, SequenceTransform, sequence_transform, "the front of the encoder"
            )
        )
        layout = batch.layout
        x = self.positions.add(self.embeddings(batch.ids, batch.segment), layout)
        x, layout = sequence_transform.transform(self.embeddings.widen(self.drop(self.embedding_norm(x))), layout)
        kept = [(x, layout)]
        for layer, block in enumerate(self.blocks):
            x, layout = sequence_transform.before_layer(x, layout, layer)
            assert isinstance(block, BlockModule)
            x = block.run("block", block, x, layout, self.positions)
            kept.append((x, layout))
        hidden = sequence_transform.restore(self.final_norm(x), layout)
        return Output(hidden, tuple(sequence_transform.restore(*each) for each in kept) if keep_layers else None)


class Model(nn.Module):
    """`encoder`, `heads` by name, and the `settings` both were built from."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(settings)
        self.heads = nn.ModuleDict()
        if settings.head is not None:
            self.heads[name_of(settings.head)] = settings.head.build(settings.shape, settings.norm)

    def add_extension(self, extension: ModelExtension, generator: torch.Generator) -> ExtensionModules:
        """Put an insert into the encoder, started from `generator` (on the CPU), and write it down in the settings;
        returns its modules. Raises `SettingsError` for a place that is taken."""
        inserted = extension.build(self.settings.shape)
        added: list[SublayerAdapter | SequenceTransform] = [*inserted.sublayer_adapters.values()]
        for module in [*added, inserted.sequence_transform] if inserted.sequence_transform is not None else added:
            module.init_weights(generator)
            module.to(self.encoder.token_embeddings.device)
        self.encoder.install(inserted)
        self.settings = dataclasses.replace(self.settings, extensions=(*self.settings.extensions, extension))
        return inserted

    @property
    def mlm_head(self) -> LMHeadModule:
        """The masked-language-model head. Raises `SettingsError` where the model has none."""
        if "mlm" not in self.heads:
            raise SettingsError("This model has no 'mlm' head.")
        head = self.heads["mlm"]
        assert isinstance(head, LMHeadModule)
        return head

    def forward(
        self, batch: Batch, keep_layers: bool = False, sequence_transform: SequenceTransform | None = None
    ) -> Output:
        """The encoder's output, and what the masked-language-model head says of it where there is one."""
        output: Output = self.encoder(batch, keep_layers, sequence_transform)
        return dataclasses.replace(output, mlm_logits=self._speak) if "mlm" in self.heads else output

    def _speak(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.mlm_head(rows, self.encoder)
        return logits


def build_model(settings: ModelSettings, seed: int = 0) -> Model:
    """A freshly initialised model on the CPU; equal seeds give equal weights."""
    model = Model(settings)
    generator = torch.Generator().manual_seed(seed)
    settings.init.apply(model, settings.shape, generator)
    for module in model.modules():
        if isinstance(module, SublayerAdapter | SequenceTransform):
            module.init_weights(generator)
    return model


def copy_for_training(model: Model, dropout: float | None) -> Model:
    """The same weights in a model of its own, to be trained with `dropout` of hidden states (None: its own) and none of
    attention weights, which would have to be whole in memory for it. Its `settings` stay those of `model`."""
    settings = model.settings
    dropout = settings.dropout if dropout is None else dropout
    found = Model(dataclasses.replace(settings, dropout=dropout, attention=settings.attention.without_dropout()))
    found.load_state_dict(model.state_dict())
    found.settings = settings
    return found


def without_heads(model: Model) -> Model:
    """The same encoder, its weights shared, in a model without heads."""
    with torch.device("meta"):
        found = Model(dataclasses.replace(model.settings, head=None))
    found.encoder = model.encoder
    return found


def _in_place_of(now: nn.Module, default: type[nn.Module], new: M, where: str) -> M:
    if type(now) is not default:
        raise SettingsError(f"extensions: {where} is taken already; two inserts cannot stand there.")
    return new
