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
from encodery.model.attention.full import Full
from encodery.model.blocks import Block, BlockModule
from encodery.model.blocks.post import Post
from encodery.model.embeddings import Embeddings
from encodery.model.embeddings.plain import Plain
from encodery.model.ffn import FFN
from encodery.model.ffn.mlp import MLP
from encodery.model.heads import Head, HeadModule
from encodery.model.heads.mlm import MLM
from encodery.model.init import Init
from encodery.model.init.normal import Normal
from encodery.model.inserts import After, Front, Insert, Inserted
from encodery.model.masks import Mask
from encodery.model.masks.document import Document
from encodery.model.norms import Norm
from encodery.model.norms.layer import Layer
from encodery.model.positions import Positions
from encodery.model.positions.learned import Learned
from encodery.model.shape import Batch, Output, Shape

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Sizes and parts of a model; the defaults are BERT's parts at a small size.

    `head_size` is width / heads and `inner` 4 · width where not given. `segments` = 0 leaves the segment table out.
    `inserts`: what was added to the finished encoder (adapters, prompts).
    """

    width: int = 256
    depth: int = 4
    heads: int = 4
    head_size: int | None = None
    inner: int | None = None
    vocab: int = 16_384
    max_length: int = 512
    segments: int = 0
    dropout: float = 0.0
    embedding_norm: bool = True
    embeddings: Embeddings = field(default_factory=Plain)
    positions: Positions = field(default_factory=Learned)
    attention: Attention = field(default_factory=Full)
    mask: Mask = field(default_factory=Document)
    ffn: FFN = field(default_factory=MLP)
    norm: Norm = field(default_factory=Layer)
    block: Block = field(default_factory=Post)
    init: Init = field(default_factory=Normal)
    head: Head | None = field(default_factory=MLM)
    inserts: tuple[Insert, ...] = ()

    def __post_init__(self) -> None:
        for name in ("width", "heads", "vocab", "max_length"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} = {getattr(self, name)}: must be at least 1.")
        if self.depth < 0 or self.segments < 0:
            raise SettingsError(f"depth = {self.depth}, segments = {self.segments}: neither can be negative.")
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
            vocab=self.vocab,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            head_size=self.width // self.heads if self.head_size is None else self.head_size,
            inner=4 * self.width if self.inner is None else self.inner,
            max_length=self.max_length,
            segments=self.segments,
            embedding=self.embeddings.size(self.width),
        )


class Encoder(nn.Module):
    """A packed batch to hidden states (T, H)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        shape = settings.shape
        norm, mask = settings.norm, settings.mask
        self.embeddings = settings.embeddings.build(shape)
        self.positions = settings.positions.build(shape)
        self.embedding_norm = norm.build(shape.embedding) if settings.embedding_norm else nn.Identity()
        self.drop = nn.Dropout(settings.dropout) if settings.dropout else nn.Identity()
        self.blocks = nn.ModuleList(
            settings.block.build(
                shape.at(layer, mask.window(layer, shape.depth)),
                attention=settings.attention,
                ffn=settings.ffn,
                norm=norm,
                dropout=settings.dropout,
            )
            for layer in range(shape.depth)
        )
        self.final_norm = settings.block.final(shape, norm)
        self.front = Front()
        for insert in settings.inserts:
            self.take(insert.build(shape))

    def take(self, inserted: Inserted) -> None:
        """Put an insert's modules in their places. Raises `SettingsError` for a place that is taken."""
        if inserted.front is not None:
            self.front = _in_place_of(self.front, Front, inserted.front, "the front of the encoder")
        for (layer, place), module in inserted.after.items():
            block = self.blocks[layer]
            assert isinstance(block, BlockModule)
            name = f"after_{place}"
            setattr(block, name, _in_place_of(getattr(block, name), After, module, f"{place} of layer {layer}"))

    @property
    def words(self) -> Tensor:
        """The word table (V, E)."""
        return self.embeddings.words

    def forward(self, batch: Batch, keep_layers: bool = False, front: Front | None = None) -> Output:
        """`keep_layers` also returns the embeddings' output and each block's. `front`: one for this pass alone, which
        raises `SettingsError` where the model has one of its own."""
        front = self.front if front is None else _in_place_of(self.front, Front, front, "the front of the encoder")
        layout = batch.layout
        x = self.positions.add(self.embeddings(batch.ids, batch.segment), layout)
        x, layout = front.enter(self.embeddings.widen(self.drop(self.embedding_norm(x))), layout)
        kept = [(x, layout)]
        for layer, block in enumerate(self.blocks):
            x, layout = front.before(x, layout, layer)
            assert isinstance(block, BlockModule)
            x = block.run("block", block, x, layout, self.positions)
            kept.append((x, layout))
        hidden = front.leave(self.final_norm(x), layout)
        return Output(hidden, tuple(front.leave(*each) for each in kept) if keep_layers else None)


class Model(nn.Module):
    """`encoder`, `heads` by name, and the `settings` both were built from."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(settings)
        self.heads = nn.ModuleDict()
        if settings.head is not None:
            self.heads[name_of(settings.head)] = settings.head.build(settings.shape, settings.norm)

    def add(self, insert: Insert, generator: torch.Generator) -> Inserted:
        """Put an insert into the encoder, started from `generator` (on the CPU), and write it down in the settings;
        returns its modules. Raises `SettingsError` for a place that is taken."""
        inserted = insert.build(self.settings.shape)
        added: list[After | Front] = [*inserted.after.values()]
        for module in [*added, inserted.front] if inserted.front is not None else added:
            module.start(generator)
            module.to(self.encoder.words.device)
        self.encoder.take(inserted)
        self.settings = dataclasses.replace(self.settings, inserts=(*self.settings.inserts, insert))
        return inserted

    @property
    def mlm(self) -> HeadModule:
        """The masked-language-model head. Raises `SettingsError` where the model has none."""
        if "mlm" not in self.heads:
            raise SettingsError("This model has no 'mlm' head.")
        head = self.heads["mlm"]
        assert isinstance(head, HeadModule)
        return head

    def forward(self, batch: Batch, keep_layers: bool = False, front: Front | None = None) -> Output:
        """The encoder's output, and what the masked-language-model head says of it where there is one."""
        output: Output = self.encoder(batch, keep_layers, front)
        return dataclasses.replace(output, speak=self._speak) if "mlm" in self.heads else output

    def _speak(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.mlm(rows, self.encoder)
        return logits


def build_model(settings: ModelSettings, seed: int = 0) -> Model:
    """A freshly initialised model on the CPU; equal seeds give equal weights."""
    model = Model(settings)
    generator = torch.Generator().manual_seed(seed)
    settings.init.apply(model, settings.shape, generator)
    for module in model.modules():
        if isinstance(module, After | Front):
            module.start(generator)
    return model


def copied(model: Model, dropout: float | None) -> Model:
    """The same weights in a model of its own, to be trained with `dropout` of hidden states (None: its own) and none of
    attention weights, which would have to be whole in memory for it. Its `settings` stay those of `model`."""
    settings = model.settings
    dropout = settings.dropout if dropout is None else dropout
    found = Model(dataclasses.replace(settings, dropout=dropout, attention=settings.attention.undropped()))
    found.load_state_dict(model.state_dict())
    found.settings = settings
    return found


def bare(model: Model) -> Model:
    """The same encoder, its weights shared, in a model without heads."""
    with torch.device("meta"):
        found = Model(dataclasses.replace(model.settings, head=None))
    found.encoder = model.encoder
    return found


def _in_place_of(now: nn.Module, default: type[nn.Module], new: M, where: str) -> M:
    if type(now) is not default:
        raise SettingsError(f"inserts: {where} is taken already; two inserts cannot stand there.")
    return new
