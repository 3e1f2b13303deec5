"""Optimiser state in main memory: the device holds the state of a few weights at a time (arXiv:2101.06840).

Off by default (`train.optimizer_offload`), since every step moves the whole state to the device and back.
`offload_optimizer` marks an optimiser, `optimizer_step` makes its step in parts: the state of a part moves to the
device, the optimiser runs on that part alone, and the state moves back. Our optimisers treat every tensor by itself, so
the trained weights do not change in any bit. Differs from ZeRO-Offload: the arithmetic stays on the device, where it
costs less than the transfers.

On a CPU the state is copied all the same and nothing is saved; that is how this is tested. **The part for CUDA (pinned
memory, copies that do not wait for the host) was never run.**
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from encodery.train.optimizer_state import OFFLOADED

HOST = torch.device("cpu")
PART_BYTES = 64 << 20  # of the weights whose state is on the device at once; a larger weight is a part by itself


def offload_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Keep the state of an optimiser of whole weights in main memory."""
    for group in optimizer.param_groups:
        group[OFFLOADED] = True


def optimizer_step(optimizer: torch.optim.Optimizer) -> None:
    """Make a step of any optimiser, in parts if its state is offloaded."""
    groups = optimizer.param_groups
    if not groups[0].get(OFFLOADED):
        optimizer.step()
        return
    whole = [group["params"] for group in groups]
    try:
        for number, part in _parts(whole):
            for i, group in enumerate(groups):
                group["params"] = part if i == number else []
            host_state = {p: _fetch(optimizer, p) for p in part}
            optimizer.step()
            for p, tensors in host_state.items():
                _put_back(optimizer, p, tensors)
    finally:
        for group, params in zip(groups, whole, strict=True):
            group["params"] = params
    _wait(whole[0][0].device)


def _parts(whole: list[list[nn.Parameter]]) -> Iterator[tuple[int, list[nn.Parameter]]]:
    """The index of a group and consecutive parameters of it that have a gradient."""
    for number, params in enumerate(whole):
        part: list[nn.Parameter] = []
        size = 0
        for p in params:
            if p.grad is None:
                continue
            if part and size + p.nbytes > PART_BYTES:
                yield number, part
                part, size = [], 0
            part.append(p)
            size += p.nbytes
        if part:
            yield number, part


def _state_tensors(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> dict[str, Tensor]:
    """The state of a weight that has its size; the step count stays where the optimiser needs it."""
    return {key: value for key, value in optimizer.state.get(p, {}).items() if key != "step"}


def _fetch(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> dict[str, Tensor]:
    """Replace the state of a weight by copies on the device; returns the tensors in main memory, none before its first
    step."""
    host_tensors = _state_tensors(optimizer, p)
    for key, tensor in host_tensors.items():
        optimizer.state[p][key] = tensor.to(p.device, non_blocking=True, copy=True)
    return host_tensors


def _put_back(optimizer: torch.optim.Optimizer, p: nn.Parameter, host_tensors: dict[str, Tensor]) -> None:
    for key, tensor in _state_tensors(optimizer, p).items():
        host_tensor = host_tensors.get(key)
        if host_tensor is None:
            host_tensor = torch.empty_like(tensor, device=HOST, pin_memory=_pinned(tensor.device))
        optimizer.state[p][key] = host_tensor.copy_(tensor, non_blocking=True)


def _pinned(device: torch.device) -> bool:
    return device.type == "cuda"


def _wait(device: torch.device) -> None:
    """Wait until the copies to main memory are complete, before a checkpoint reads them."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
