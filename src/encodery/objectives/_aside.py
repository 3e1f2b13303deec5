"""[MASK]s set aside: the first layers see the other tokens only, as a smaller packed batch, and so cost less.

Every token keeps the position it has in its text. What the embeddings made of the [MASK]s waits and joins before a
layer, if at all. A local layer's window reaches so many tokens of those that are there.
Shapes: T tokens, S tokens that are no [MASK], H width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.model.inserts import Front
from encodery.model.shape import Batch, Layout


class Aside:
    """A batch cut in two: rows that `stay` (S,) and how they lie (`layout`), and rows that go `aside` (T - S,)."""

    def __init__(self, batch: Batch, mask_id: int) -> None:
        masked = batch.ids == mask_id
        self.whole = batch.layout
        self.stay = (~masked).nonzero().squeeze(1)
        self.aside = masked.nonzero().squeeze(1)
        before = F.pad((~masked).cumsum(0), (1, 0))  # (T+1,) tokens that stay, before each row
        ends = before[batch.cu_seqlens.long()].to(batch.cu_seqlens.dtype)
        places = self.whole.places[self.stay]
        self.layout = Layout(ends, self.whole.max_seqlen, self.stay.numel(), places)

    def joined(self, x: Tensor, masks: Tensor) -> Tensor:
        """Rows of both parts (S, H) and (T - S, H), each in its place → (T, H)."""
        whole = x.new_empty(self.whole.tokens, x.shape[1])
        return whole.index_copy(0, self.stay, x).index_copy(0, self.aside, masks.to(x.dtype))


class Late(Front):
    """[MASK]s join before layer `layer`; never where it is None, and the encoder's output has S rows."""

    def __init__(self, aside: Aside, layer: int | None) -> None:
        super().__init__()
        self.parts, self.layer = aside, layer
        self.waiting = torch.empty(0)

    def enter(self, x: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
        self.waiting = x.index_select(0, self.parts.aside)
        return x.index_select(0, self.parts.stay), self.parts.layout

    def before(self, x: Tensor, layout: Layout, layer: int) -> tuple[Tensor, Layout]:
        if layer != self.layer:
            return x, layout
        return self.parts.joined(x, self.waiting), self.parts.whole
