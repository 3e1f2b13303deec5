"""The settings of a model: its sizes and its parts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from encodery.base.errors import SettingsError
from encodery.base.parts import Part, name_of
from encodery.base.settings import check_at_least, check_interval
from encodery.model.attention import Attention
from encodery.model.attention.full import FullAttention
from encodery.model.blocks import Block
from encodery.model.blocks.post import PostNorm
from encodery.model.decoder_settings import DecoderSettings
from encodery.model.embeddings import Embeddings
from encodery.model.embeddings.plain import PlainEmbeddings
from encodery.model.extensions import ModelExtension
from encodery.model.extra_heads import ExtraHead
from encodery.model.ffn import FFN
from encodery.model.ffn.mlp import MLP
from encodery.model.heads import LMHead
from encodery.model.heads.mlm import MLMHead
from encodery.model.init import Init
from encodery.model.init.normal import NormalInit
from encodery.model.layer_sizes import LayerSizes
from encodery.model.masks import Mask
from encodery.model.masks.document import DocumentMask
from encodery.model.norms import Norm
from encodery.model.norms.layer import LayerNorm
from encodery.model.positions import Positions
from encodery.model.positions.learned import LearnedPositions
from encodery.model.shape import Shape


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Sizes and parts of a model. The defaults are BERT's parts at a small size.

    `head_size` defaults to width / heads and `intermediate_size` to 4 · width. `layers` has an entry for each layer if
    layers have different sizes (see `LayerSizes`). `layer_groups` has the group of each layer if layers share weights:
    layers of one group are one block that is applied several times (arXiv:1909.11942), so `[0, 0, 1, 1]` has the
    weights of two layers; groups are numbered from 0 in the order of their first layers. With `type_vocab_size` = 0 the
    model has no segment embeddings.
    `head` is the language-model head, null for none; `extra_heads` are those of other objectives (`replaced_tokens`).
    `decoder` makes the model an encoder–decoder; the decoder has its own head. `extensions`
    lists what was added to the finished encoder (adapters, prompts).
    """

    width: int = 256
    depth: int = 4
    heads: int = 4
    head_size: int | None = None
    intermediate_size: int | None = None
    layers: tuple[LayerSizes, ...] = ()
    layer_groups: tuple[int, ...] = ()
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
    extra_heads: tuple[ExtraHead, ...] = ()
    decoder: DecoderSettings | None = None
    extensions: tuple[ModelExtension, ...] = ()

    def __post_init__(self) -> None:
        check_at_least(self, 1, "width", "heads", "vocab_size", "max_length")
        check_at_least(self, 0, "depth", "type_vocab_size")
        check_interval(self, "0 <= x < 1", "dropout")
        if self.head_size is None and self.width % self.heads:
            raise SettingsError(
                f"width = {self.width} is not a multiple of heads = {self.heads}: change one of them or set head_size."
            )
        if len(self.layers) not in (0, self.depth):
            raise SettingsError(
                f"layers has {len(self.layers)} entries, but depth = {self.depth}: give one for each layer, or none."
            )
        names = [name_of(head) for head in self.extra_heads]
        if len(set(names)) < len(names):
            raise SettingsError(f"extra_heads = {names}: each may occur once.")
        self._check_groups()
        _refuse("positions", self.positions, self.positions.incompatibility(self.shape))
        decoder = [] if self.decoder is None else self.decoder.layer_shapes(self.shape)
        if self.positions.has_layer_weights and (self.decoder is not None or len(self.block_shapes) < self.depth):
            reason = "has weights for each layer, so there can be no layer_groups and no decoder."
            _refuse("positions", self.positions, reason)
        for shape in (*self.block_shapes, *decoder):
            _refuse("positions", self.positions, self.positions.layer_incompatibility(self.shape, shape))
            _refuse("block", self.block, self.block.incompatibility(shape))
            if shape.heads:
                _refuse("attention", self.attention, self.attention.incompatibility(shape, self.positions))
            if shape.intermediate_size:
                _refuse("ffn", self.ffn, self.ffn.incompatibility(shape))
            for extension in self.extensions:
                _refuse("extensions", extension, extension.incompatibility(shape))

    @property
    def head_name(self) -> str | None:
        """The names of the parts of the heads, joined by "+"; None without a head."""
        heads = self.extra_heads if self.head is None else (self.head, *self.extra_heads)
        return "+".join(name_of(head) for head in heads) or None

    @property
    def shape(self) -> Shape:
        """The sizes, with defaults resolved."""
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

    @property
    def layer_shapes(self) -> tuple[Shape, ...]:
        """The sizes and the reach of each layer."""
        sizes = self.layers or (LayerSizes(),) * self.depth
        return tuple(
            self.shape.for_layer(layer, self.mask.reach(layer, self.depth), own.heads, own.intermediate_size)
            for layer, own in enumerate(sizes)
        )

    @property
    def groups(self) -> tuple[int, ...]:
        """The block of each layer: the number of the layer itself unless `layer_groups` says that layers share one."""
        return self.layer_groups or tuple(range(self.depth))

    @property
    def block_shapes(self) -> tuple[Shape, ...]:
        """The shape of each block; `layer` is None for one that several layers share."""
        groups, shapes = self.groups, self.layer_shapes
        first = [shapes[groups.index(group)] for group in range(max(groups, default=-1) + 1)]
        return tuple(
            shape if groups.count(group) == 1 else dataclasses.replace(shape, layer=None)
            for group, shape in enumerate(first)
        )

    def _check_groups(self) -> None:
        """Raise `SettingsError` if `layer_groups` does not number groups, or groups layers that differ."""
        groups = self.layer_groups
        if len(groups) not in (0, self.depth):
            raise SettingsError(
                f"layer_groups has {len(groups)} entries, but depth = {self.depth}: give one for each layer, or none."
            )
        if any(group < 0 or group > max(groups[:layer], default=-1) + 1 for layer, group in enumerate(groups)):
            raise SettingsError(
                f"layer_groups = {groups}: number the groups from 0 in the order of their first layers, as in "
                "[0, 0, 1, 1]."
            )
        shapes = self.layer_shapes if groups else ()
        for shape in shapes:
            assert shape.layer is not None
            first = groups.index(groups[shape.layer])
            if dataclasses.replace(shape, layer=first) != shapes[first]:
                raise SettingsError(
                    f"layer_groups: layers {first} and {shape.layer} share weights, but their sizes or the reach of "
                    "their attention differ: change layer_groups, layers or mask."
                )

    def with_depth(self, depth: int) -> ModelSettings:
        """The same model with `depth` layers.

        Raises `SettingsError` for more than there are if `layers` or `layer_groups` lists them, and for fewer, but not
        none, if positions have weights for each layer.
        """
        if self.positions.has_layer_weights and depth not in (0, self.depth):
            reason = f"has weights for each of the {self.depth} layers, so there cannot be {depth}."
            _refuse("positions", self.positions, reason)
        for name in ("layers", "layer_groups"):
            if depth > self.depth and getattr(self, name):
                raise SettingsError(f"depth = {depth}: model.{name} is of {self.depth} layers only. Add entries to it.")
        return dataclasses.replace(
            self, depth=depth, layers=self.layers[:depth], layer_groups=self.layer_groups[:depth]
        )


def _refuse(setting: str, part: Part, reason: str | None) -> None:
    """Raise `SettingsError` if there is a reason."""
    if reason is not None:
        raise SettingsError(f"{setting} = '{name_of(part)}': {reason}")
