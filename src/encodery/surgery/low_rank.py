"""Low rank: the matrices of the feed-forward layers become products of two narrow ones, by their singular values.

The product of rank R that is nearest to a matrix keeps its R largest singular values; their roots are shared between
the two factors. Further training should follow, such as distillation from the whole model (`encodery compress`):
arXiv:2310.10700. With `merge` the factors of such a model are multiplied again, so that it can be exported to formats
that know whole matrices only. Shapes: I inputs, O outputs, R rank.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import check_at_least
from encodery.model.ffn.low_rank import LowRankFFN
from encodery.model.load import LoadedModel
from encodery.model.network import model_of_state
from encodery.model.shape import Batch
from encodery.surgery import Surgery, SurgeryResult
from encodery.surgery._sizes import size_metrics

MATRIX = re.compile(r"(.*\bblocks\.\d+\.ffn\.(?:up|down))\.(weight|bias)")
FACTOR = re.compile(r"(.*\bblocks\.\d+\.ffn\.(?:up|down))\.second\.(weight|bias)")


@dataclass(frozen=True, kw_only=True)
class FactoriseFFN(Surgery):
    """Use it to make a trained model smaller and faster. `rank`: R of both matrices of every feed-forward layer, which
    then has R · (I + O) weights per matrix; `merge`: multiply the factors of a model that has them instead.

        encodery model edit run --surgery low_rank --out student rank=96
    """

    rank: int = 64
    merge: bool = False

    def __post_init__(self) -> None:
        check_at_least(self, 1, "rank")

    def operate(self, loaded: LoadedModel, generator: torch.Generator, batches: Sequence[Batch] = ()) -> SurgeryResult:
        """See `Surgery`. Metrics: the sizes, and `kept_energy`, the mean fraction of the squared singular values."""
        old, before = loaded.model.settings, loaded.model.state_dict()
        known = isinstance(old.ffn, LowRankFFN)
        if known != self.merge:
            needed = "needs a model with ffn = 'low_rank'" if self.merge else "needs a model with whole matrices"
            raise SettingsError(f"merge = {str(self.merge).lower()}: {needed}; this one has '{name_of(old.ffn)}'.")
        if isinstance(old.ffn, LowRankFFN):
            new, after, kept = dataclasses.replace(old, ffn=old.ffn.ffn), multiplied(before), [1.0]
        else:
            new = dataclasses.replace(old, ffn=LowRankFFN(ffn=old.ffn, rank=self.rank))
            after, kept = factorised(before, self.rank)
        model = model_of_state(new, after)
        return SurgeryResult(model, metrics={**size_metrics(before, model), "kept_energy": sum(kept) / len(kept)})


def factorised(state: Mapping[str, Tensor], rank: int) -> tuple[dict[str, Tensor], list[float]]:
    """Return the state with each matrix (O, I) as `first` (R, I) and `second` (O, R), and the fraction of the squared
    singular values that each keeps."""
    changed: dict[str, Tensor] = {}
    kept = []
    for name, tensor in state.items():
        match = MATRIX.fullmatch(name)
        if match is None:
            changed[name] = tensor
        elif match[2] == "bias":
            changed[f"{match[1]}.second.bias"] = tensor
        else:
            left, values, right = torch.linalg.svd(tensor.double(), full_matrices=False)
            roots = values[:rank].sqrt()
            changed[f"{match[1]}.first.weight"] = (roots[:, None] * right[:rank]).to(tensor.dtype)
            changed[f"{match[1]}.second.weight"] = (left[:, :rank] * roots).to(tensor.dtype)
            kept.append(float(values[:rank].square().sum() / values.square().sum()))
    if not kept:
        raise SettingsError("The model has no feed-forward layers, so there is nothing to factorise.")
    return changed, kept


def multiplied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with the product (O, I) in place of the two factors of each matrix."""
    changed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = FACTOR.fullmatch(name)
        if match is not None and match[2] == "weight":
            product = tensor.double() @ state[f"{match[1]}.first.weight"].double()
            changed[f"{match[1]}.weight"] = product.to(tensor.dtype)
        elif match is not None:
            changed[f"{match[1]}.bias"] = tensor
        elif not name.endswith((".ffn.up.first.weight", ".ffn.down.first.weight")):
            changed[name] = tensor
    return changed
