"""The tokens that are no [MASK], as a smaller packed batch, so that the first layers cost less.

Every token keeps its position in the text. The embeddings of the [MASK]s wait and join before a given layer, if at all.
The reach of a layer counts the tokens that are present.
Shapes: T tokens, S tokens that are no [MASK], H width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.sequence_transform import SequenceTransform
from encodery.model.shape import Batch, Layout


class VisibleTokens:
    """A batch split in two: positions of the `visible` tokens (S,) with their own `layout`, and of the `masked` ones
    (T - S,); `whole` is the layout of all."""

    def __init__(self, batch: Batch, mask_id: int) -> None:
        masked = batch.ids == mask_id
        self.whole = batch.layout
        self.visible = (~masked).nonzero().squeeze(1)
        self.masked = masked.nonzero().squeeze(1)
        before = F.pad((~masked).cumsum(0), (1, 0))  # (T+1,) visible tokens before each position
        ends = before[batch.cu_seqlens.long()].to(batch.cu_seqlens.dtype)
        positions = self.whole.text_positions[self.visible]
        starts = batch.cu_seqlens[:-1].long()
        prefix = None if batch.prefix is None else before[starts + batch.prefix] - before[starts]
        self.layout = Layout(ends, self.whole.max_seqlen, self.visible.numel(), positions, batch.reach, prefix)

    def join(self, x: Tensor, masks: Tensor) -> Tensor:
        """Put the states of visible (S, H) and masked tokens (T - S, H) each at its position: (T, H)."""
        whole = x.new_empty(self.whole.tokens, x.shape[1])
        return whole.index_copy(0, self.visible, x).index_copy(0, self.masked, masks.to(x.dtype))


class LateMasks(SequenceTransform):
    """[MASK]s join before layer `layer`; with None they never do, and the encoder returns S states."""

    def __init__(self, split: VisibleTokens, layer: int | None) -> None:
        super().__init__()
        self.split, self.layer = split, layer
        self.waiting = torch.empty(0)

    def transform(self, x: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
        self.waiting = x.index_select(0, self.split.masked)
        return x.index_select(0, self.split.visible), self.split.layout

    def before_layer(self, x: Tensor, layout: Layout, layer: int) -> tuple[Tensor, Layout]:
        if layer != self.layer:
            return x, layout
        return self.split.join(x, self.waiting), self.split.whole
