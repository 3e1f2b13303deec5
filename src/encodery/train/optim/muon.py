"""Muon for the matrices of the encoder's blocks, AdamW for all else (Muon at scale: arXiv 2502.16982).

The momentum of a matrix is replaced by the nearest (semi-)orthogonal matrix, found by five Newton-Schulz steps in
bfloat16 (`torch.optim.Muon`). Embeddings, heads, positions, norms and biases take `adamw`. `scale` says how the
rate follows a matrix's shape: `match_rms_adamw` makes the update as large as AdamW's, so `lr` and `weight_decay` mean
the same for both; `original` is √max(1, rows / columns), with an `lr` of about 0.02, and an `lr` of its own for the
rest. Query, key and value weights that are stored as one matrix count as one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from encodery.base.errors import SettingsError
from encodery.model.encoder import Encoder
from encodery.train.optim import LrScale, Named, Optimizer, trainable, uniform_lr, without_decay


@dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """`momentum`, `nesterov` and `iterations` (of Newton-Schulz) are Muon's; `betas` and `eps` AdamW's; `lr_rest` is
    AdamW's peak rate, `lr` where not given."""

    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    adjust_lr: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    adamw_lr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise SettingsError(f"momentum = {self.momentum}: must lie in 0 <= momentum < 1.")
        if not 1 <= self.ns_steps < 100:
            raise SettingsError(f"iterations = {self.ns_steps}: must lie in 1..99.")
        if self.adamw_lr is not None and self.adamw_lr <= 0:
            raise SettingsError(f"lr_rest = {self.adamw_lr}: must be more than 0.")

    def build(self, module: nn.Module, lr_scale: LrScale = uniform_lr) -> torch.optim.Optimizer:
        """Both optimisers as one, with one list of groups and one state."""
        named, spared = trainable(module), without_decay(module)
        if any(isinstance(p, DTensor) for _, p in named):
            raise SettingsError("optim.is = 'muon' needs whole matrices: leave train.fsdp off, or take adamw.")
        matrices = _matrices(module)
        inner: list[torch.optim.Optimizer] = []
        if hidden := [(name, p) for name, p in named if id(p) in matrices]:
            inner.append(
                torch.optim.Muon(
                    self.groups(hidden, set(), lr_scale),
                    lr=self.lr,
                    momentum=self.momentum,
                    nesterov=self.nesterov,
                    ns_steps=self.ns_steps,
                    adjust_lr_fn=self.adjust_lr,
                )
            )
        if rest := [(name, p) for name, p in named if id(p) not in matrices]:
            inner.append(self._adamw(rest, spared, lr_scale))
        return _Joined(inner)

    def _adamw(self, rest: Named, spared: set[int], pace: LrScale) -> torch.optim.Optimizer:
        groups = replace(self, lr=self.lr if self.adamw_lr is None else self.adamw_lr).groups(rest, spared, pace)
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


def _matrices(module: nn.Module) -> set[int]:
    """Ids of the two-dimensional weights inside the blocks of every encoder in `module`."""
    blocks = [encoder.blocks for encoder in module.modules() if isinstance(encoder, Encoder)]
    return {id(p) for block in blocks for p in block.parameters() if p.ndim == 2}


class _Joined(torch.optim.Optimizer):
    """Several optimisers of disjoint parameters that look like one."""

    def __init__(self, inner: list[torch.optim.Optimizer]) -> None:
        groups = [group for optimizer in inner for group in optimizer.param_groups]
        super().__init__([p for group in groups for p in group["params"]], {})
        self.inner = inner
        self.param_groups = groups
        self.state = defaultdict(dict)
        self._share()

    def _share(self) -> None:
        """Let the inner optimisers use this one's groups and state."""
        groups = iter(self.param_groups)
        for optimizer in self.inner:
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]
            optimizer.state = self.state

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.inner:
            optimizer.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `torch.optim.Optimizer`'s."""
        super().load_state_dict(state_dict)
        self._share()
