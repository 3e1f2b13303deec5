"""Muon for the matrices of the encoder's blocks, AdamW for everything else (Muon at scale: arXiv:2502.16982).

The momentum of a matrix is replaced by the nearest (semi-)orthogonal matrix, computed by five Newton-Schulz steps in
bfloat16 (`torch.optim.Muon`). Embeddings, heads, positions, norms and biases use AdamW. `adjust_lr` is how the learning
rate follows the shape of a matrix: `match_rms_adamw` makes the update as large as AdamW's, so `lr` and `weight_decay`
mean the same for both; `original` is √max(1, rows / columns), with an `lr` of about 0.02 and a separate `adamw_lr` for
the rest. Query, key and value weights that are stored as one matrix count as one. Needs whole matrices, so not
`train.fsdp`. Use it to reach a loss in fewer steps: `optim.is=muon optim.lr=2e-3`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from encodery.base.errors import SettingsError
from encodery.model.encoder import Encoder
from encodery.train.optim import LrScale, Optimizer, uniform_lr
from encodery.train.optim._groups import NamedParameters, parameter_groups, trainable, without_decay


@dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """`momentum`, `nesterov` and `ns_steps` (Newton-Schulz steps) are those of Muon; `betas` and `eps` those of AdamW;
    `adamw_lr` is the peak learning rate of AdamW (absent: `lr`)."""

    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    adjust_lr: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    adamw_lr: float | None = None

    supports_fsdp: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise SettingsError(f"momentum = {self.momentum}: must be at least 0 and below 1.")
        if not 1 <= self.ns_steps < 100:
            raise SettingsError(f"ns_steps = {self.ns_steps}: must be in 1..99.")
        if self.adamw_lr is not None and self.adamw_lr <= 0:
            raise SettingsError(f"adamw_lr = {self.adamw_lr}: must be above 0.")

    def build(self, module: nn.Module, lr_scale: LrScale = uniform_lr) -> torch.optim.Optimizer:
        """Both optimisers as one, with one list of groups and one state."""
        named, undecayed = trainable(module), without_decay(module)
        matrices = _matrices(module)
        optimizers: list[torch.optim.Optimizer] = []
        if hidden := [(name, p) for name, p in named if id(p) in matrices]:
            optimizers.append(
                torch.optim.Muon(
                    parameter_groups(self, hidden, set(), lr_scale),
                    lr=self.lr,
                    momentum=self.momentum,
                    nesterov=self.nesterov,
                    ns_steps=self.ns_steps,
                    adjust_lr_fn=self.adjust_lr,
                )
            )
        if rest := [(name, p) for name, p in named if id(p) not in matrices]:
            optimizers.append(self._adamw(rest, undecayed, lr_scale))
        return _JoinedOptimizer(optimizers)

    def _adamw(self, rest: NamedParameters, undecayed: set[int], lr_scale: LrScale) -> torch.optim.Optimizer:
        own = replace(self, lr=self.lr if self.adamw_lr is None else self.adamw_lr)
        groups = parameter_groups(own, rest, undecayed, lr_scale)
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


def _matrices(module: nn.Module) -> set[int]:
    """Ids of the two-dimensional weights in the blocks of every encoder in `module`."""
    blocks = [encoder.blocks for encoder in module.modules() if isinstance(encoder, Encoder)]
    return {id(p) for block in blocks for p in block.parameters() if p.ndim == 2}


class _JoinedOptimizer(torch.optim.Optimizer):
    """Several optimisers of different parameters as one."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        super().__init__([p for group in groups for p in group["params"]], {})
        self.optimizers = optimizers
        self.param_groups = groups
        self.state = defaultdict(dict)
        self._share_state()

    def _share_state(self) -> None:
        """Let the inner optimisers use the groups and the state of this one."""
        groups = iter(self.param_groups)
        for optimizer in self.optimizers:
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]
            optimizer.state = self.state

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in `torch.optim.Optimizer`."""
        super().load_state_dict(state_dict)
        self._share_state()
