"""[MASK]s set aside: the first layers see the other tokens only, as a smaller packed batch, and so cost less.

Every token keeps the position it has in its text. What the embeddings made of the [MASK]s waits and joins before a
layer, if at all. A local layer's window reaches so many tokens of those that are there.
Shapes: T tokens, S tokens that are no [MASK], H width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.extensions import SequenceTransform
from encodery.model.shape import Batch, Layout


class VisibleTokens:
    """A batch cut in two: rows that `stay` (S,) and how they lie (`layout`), and rows that go `aside` (T - S,)."""

    def __init__(self, batch: Batch, mask_id: int) -> None:
        masked = batch.ids == mask_id
        self.whole = batch.layout
        self.visible = (~masked).nonzero().squeeze(1)
        self.masked = masked.nonzero().squeeze(1)
        before = F.pad((~masked).cumsum(0), (1, 0))  # (T+1,) tokens that stay, before each row
        ends = before[batch.cu_seqlens.long()].to(batch.cu_seqlens.dtype)
        places = self.whole.text_positions[self.visible]
        self.layout = Layout(ends, self.whole.max_seqlen, self.visible.numel(), places)

    def join(self, x: Tensor, masks: Tensor) -> Tensor:
        """Rows of both parts (S, H) and (T - S, H), each in its place → (T, H)."""
        whole = x.new_empty(self.whole.tokens, x.shape[1])
        return whole.index_copy(0, self.visible, x).index_copy(0, self.masked, masks.to(x.dtype))


class LateMasks(SequenceTransform):
    """[MASK]s join before layer `layer`; never where it is None, and the encoder's output has S rows."""

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
