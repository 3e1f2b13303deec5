"""Sum: several kinds of positions in one model, such as learned ones and a relative bias (MPNet, arXiv:2004.09297).

Each part enters where it would alone; biases of scores add up. Shapes: N heads, R longest sequence of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.cost import Cost
from encodery.model.head_weights import OffsetPattern
from encodery.model.ops.relative_attention import RelativeTerms
from encodery.model.positions import PositionKind, Positions, PositionsModule
from encodery.model.shape import Layout, Shape


@dataclass(frozen=True, kw_only=True)
class SumPositions(Positions):
    """Use it to combine kinds of positions. `of`: the parts, of which only one may be of the kind `relative`, and only
    one of the kind `rotation`.

    [model.positions]
    is = "sum"
    of = ["learned", "relative_bias"]
    """

    of: tuple[Positions, ...]

    def __post_init__(self) -> None:
        if not self.of:
            raise SettingsError("of = []: a sum needs at least one part, such as of = ['learned', 'relative_bias'].")
        for kind in ("relative", "rotation"):
            names = [name_of(part) for part in self.of if kind in part.kinds]
            if len(names) > 1:
                raise SettingsError(f"of: {' and '.join(names)} are both of the kind '{kind}'; only one part may be.")

    @property
    def kinds(self) -> frozenset[PositionKind]:
        return frozenset().union(*(part.kinds for part in self.of))

    @property
    def has_layer_weights(self) -> bool:
        return any(part.has_layer_weights for part in self.of)

    def cost(self, shape: Shape, length: float) -> Cost:
        """Products add up; the attention weights of long sequences are kept once, whatever needs them."""
        costs = [part.cost(shape, length) for part in self.of]
        return Cost(sum(cost.flops for cost in costs), max(cost.kept for cost in costs))

    def incompatibility(self, shape: Shape) -> str | None:
        return next(_reasons(self.of, lambda part: part.incompatibility(shape)), None)

    def layer_incompatibility(self, model: Shape, layer: Shape) -> str | None:
        return next(_reasons(self.of, lambda part: part.layer_incompatibility(model, layer)), None)

    def build(self, shape: Shape) -> PositionsModule:
        return _SumModule([part.build(shape) for part in self.of])


def _reasons(parts: Sequence[Positions], reason: Callable[[Positions], str | None]) -> Iterator[str]:
    """The reasons of the parts that have one, with their names."""
    for part in parts:
        own = reason(part)
        if own is not None:
            yield f"its part '{name_of(part)}' {own}"


class _SumModule(PositionsModule):
    def __init__(self, parts: list[PositionsModule]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def _modules_of_parts(self) -> list[PositionsModule]:
        return cast("list[PositionsModule]", list(self.parts))

    def add(self, x: Tensor, layout: Layout) -> Tensor:
        for part in self._modules_of_parts():
            x = part.add(x, layout)
        return x

    def rotate(self, qkv: Tensor, layout: Layout, shape: Shape) -> Tensor:
        for part in self._modules_of_parts():
            qkv = part.rotate(qkv, layout, shape)
        return qkv

    def bias(self, layout: Layout, shape: Shape) -> Tensor | None:
        biases = [part.bias(layout, shape) for part in self._modules_of_parts()]
        # A bias of a part may be for longer sequences than the batch has.
        own = [bias[:, bias.shape[1] // 2 + 1 - layout.max_seqlen :] for bias in biases if bias is not None]
        own = [bias[:, : 2 * layout.max_seqlen - 1] for bias in own]
        return sum(own[1:], own[0]) if own else None

    def relative_terms(self, project: Callable[[Tensor], Tensor], layout: Layout, shape: Shape) -> RelativeTerms | None:
        terms = (part.relative_terms(project, layout, shape) for part in self._modules_of_parts())
        return next((term for term in terms if term is not None), None)

    def init_offset_features(self, std: float, generator: torch.Generator) -> None:
        for part in self._modules_of_parts():
            part.init_offset_features(std, generator)

    def offset_pattern(self, offset: int, sharpness: float, shape: Shape) -> OffsetPattern | None:
        """That of the first part that has one."""
        patterns = (part.offset_pattern(offset, sharpness, shape) for part in self._modules_of_parts())
        return next((pattern for pattern in patterns if pattern is not None), None)
