"""Moments that wait in main memory: the device holds those of a few weights at a time (arXiv 2101.06840).

Off by default (`train.optimizer_offload`), since every step moves all moments to the device and back. `offload` marks an
optimiser, `step` makes its step in parts: the moments of a part come, the optimiser runs on that part alone, and they
go back. The optimisers of ours treat every tensor by itself, so that nothing changes in what is learnt, to the last
bit. Differs from ZeRO-Offload: the arithmetic stays on the device, where it costs less than the way back.

On a CPU the moments are copied to and fro all the same and nothing is won; it is how this is tested. **The part for
CUDA (pinned memory, copies that do not wait for the host) was never run.**
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from encodery.train.optim import OFFLOADED

HOME = torch.device("cpu")
PART_BYTES = 64 << 20  # of the weights whose moments are on the device at once; a larger weight is a part of its own


def offload_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Have the moments of an optimiser of whole weights wait in main memory."""
    for group in optimizer.param_groups:
        group[OFFLOADED] = True


def optimizer_step(optimizer: torch.optim.Optimizer) -> None:
    """A step of any optimiser, in parts where it was marked."""
    groups = optimizer.param_groups
    if not groups[0].get(OFFLOADED):
        optimizer.step()
        return
    whole = [group["params"] for group in groups]
    try:
        for at, part in _parts(whole):
            for number, group in enumerate(groups):
                group["params"] = part if number == at else []
            homes = {p: _fetch(optimizer, p) for p in part}
            optimizer.step()
            for p, home in homes.items():
                _put_back(optimizer, p, home)
    finally:
        for group, params in zip(groups, whole, strict=True):
            group["params"] = params
    _wait(whole[0][0].device)


def _parts(whole: list[list[nn.Parameter]]) -> Iterator[tuple[int, list[nn.Parameter]]]:
    """Neighbours within a group that have a gradient, and the group's number."""
    for number, params in enumerate(whole):
        held: list[nn.Parameter] = []
        size = 0
        for p in params:
            if p.grad is None:
                continue
            if held and size + p.nbytes > PART_BYTES:
                yield number, held
                held, size = [], 0
            held.append(p)
            size += p.nbytes
        if held:
            yield number, held


def _moments(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> dict[str, Tensor]:
    """All of a weight's state that has its size; its count of steps is where the optimiser wants it."""
    return {key: value for key, value in optimizer.state.get(p, {}).items() if key != "step"}


def _fetch(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> dict[str, Tensor]:
    """Put copies on the device in the place of a weight's moments, which are returned; none before its first step."""
    homes = _moments(optimizer, p)
    for key, home in homes.items():
        optimizer.state[p][key] = home.to(p.device, non_blocking=True, copy=True)
    return homes


def _put_back(optimizer: torch.optim.Optimizer, p: nn.Parameter, homes: dict[str, Tensor]) -> None:
    for key, moved in _moments(optimizer, p).items():
        home = homes.get(key)
        if home is None:
            home = torch.empty_like(moved, device=HOME, pin_memory=_pinned(moved.device))
        optimizer.state[p][key] = home.copy_(moved, non_blocking=True)


def _pinned(device: torch.device) -> bool:
    return device.type == "cuda"


def _wait(device: torch.device) -> None:
    """What is on its way home must have come before a checkpoint reads it."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
