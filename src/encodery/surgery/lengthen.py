"""Longer sequences: a model reads more tokens than it was trained on; a little training at that length should follow.

Learned positions: `tile` repeats the table, so that outputs at all previous lengths stay the same (arXiv:2004.05150);
`interpolate` stretches it, so that each new position is between two old ones. Rotary positions: `theta` becomes the one
given, or grows by (new / old) ** (D / (D - 2)), so that the slowest rotation covers the new length as it did the old
one, while the fastest stay (NTK-aware scaling); layers with a window keep theirs. Other positions need no change.
Shapes: P positions, E embedding size, D head size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.model.load import LoadedModel
from encodery.model.network import model_of_state
from encodery.model.positions.learned import LearnedPositions
from encodery.model.positions.rotary import RotaryPositions
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.surgery import Surgery, SurgeryResult

TABLE = "encoder.positions.table.weight"


@dataclass(frozen=True, kw_only=True)
class Lengthen(Surgery):
    """Use it to read longer texts than a model was trained on. `max_length` is the new longest sequence; `method` is
    for learned positions, `theta` for rotary ones.

        encodery model edit run --surgery lengthen --out longer max_length=1024
    """

    max_length: int
    method: Literal["tile", "interpolate"] = "tile"
    theta: float | None = None

    def operate(self, loaded: LoadedModel, generator: torch.Generator, batches: Sequence[Batch] = ()) -> SurgeryResult:
        settings = loaded.model.settings
        if self.max_length <= settings.max_length:
            raise SettingsError(f"max_length = {self.max_length}: must be more than the model's {settings.max_length}.")
        if self.theta is not None and not isinstance(settings.positions, RotaryPositions):
            raise SettingsError(f"theta = {self.theta}: is for rotary positions, which this model does not have.")
        state = dict(loaded.model.state_dict())
        longer = dataclasses.replace(settings, max_length=self.max_length)
        if isinstance(settings.positions, LearnedPositions):
            state[TABLE] = self._table(state[TABLE], settings.positions.offset)
        elif isinstance(settings.positions, RotaryPositions):
            longer = dataclasses.replace(longer, positions=self._rotary(settings.positions, settings))
        else:
            _check_sizes(settings, longer)
        metrics = {"max_length": self.max_length, "max_length_before": settings.max_length}
        return SurgeryResult(model_of_state(longer, state), metrics=metrics)

    def _table(self, table: Tensor, offset: int) -> Tensor:
        """(offset + P, E) → (offset + max_length, E)."""
        reserved, old = table[:offset], table[offset:]
        if self.method == "tile":
            return torch.cat([reserved, old.repeat(-(-self.max_length // len(old)), 1)[: self.max_length]])
        new = F.interpolate(old.T[None], size=self.max_length, mode="linear", align_corners=True)
        return torch.cat([reserved, new[0].T])

    def _rotary(self, positions: RotaryPositions, settings: ModelSettings) -> RotaryPositions:
        size = settings.shape.head_size
        factor = self.max_length / settings.max_length
        theta = self.theta if self.theta is not None else positions.theta * factor ** (size / max(size - 2, 1))
        has_local = any(settings.mask.reach(layer, settings.depth).is_local for layer in range(settings.depth))
        local = positions.theta if positions.local_theta is None and has_local else positions.local_theta
        return RotaryPositions(theta=theta, local_theta=local)


def _check_sizes(settings: ModelSettings, longer: ModelSettings) -> None:
    """Raise `SettingsError` if weights of the positions are of other sizes in the longer model."""
    with torch.device("meta"):
        before, after = (own.positions.build(own.shape).state_dict() for own in (settings, longer))
    for name, weight in after.items():
        if weight.shape != before[name].shape:
            raise SettingsError(
                f"positions = '{name_of(settings.positions)}': the size of {name} depends on max_length, and only the "
                "table of 'learned' positions alone can be made longer."
            )
