"""Weights with more or fewer channels: copies whose weights add up, and means whose inputs add up.

A channel that is copied is computed twice; whatever sums over channels gives each copy a fraction of the weight, and
the fractions of all copies add up to one, so the sum is unchanged. In the other direction, channels that become one are
averaged where they are computed and added where they are summed over: a model that was widened comes back unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.surgery._sizes import Axis, Size

BLOCK = re.compile(r"(encoder\.blocks\.)(\d+)\.(.+)")
State = Mapping[str, Tensor]
Axes = Mapping[str, list[Axis]]


@dataclass(frozen=True)
class ChannelSources:
    """`channels`: for each size (n,) the channel of the narrower model that each channel of the wider one belongs to;
    `counts`: the number of channels of the narrower model."""

    channels: Mapping[Size, Tensor]
    counts: Mapping[Size, int]

    def indices(self, axis: Axis) -> Tensor:
        """Return, for each index on the wider axis, the index on the narrower one."""
        return axis.indices(self.channels[axis.size], self.counts[axis.size])

    def is_added(self, axis: Axis) -> Tensor:
        """Return, for each index on the wider axis, whether the narrower model does not have it."""
        added = torch.arange(len(self.channels[axis.size])) >= self.counts[axis.size]
        return added.repeat_interleave(axis.unit).repeat(axis.runs)


def cyclic_sources(narrow: Mapping[Size, int], wide: Mapping[Size, int]) -> ChannelSources:
    """Assign channel j to j modulo the narrower count."""
    return ChannelSources({size: torch.arange(wide[size]) % narrow[size] for size in narrow}, narrow)


def random_sources(narrow: Mapping[Size, int], wide: Mapping[Size, int], generator: torch.Generator) -> ChannelSources:
    """Assign the first channels to themselves, and each further one to a random channel."""
    channels = {}
    for size, count in narrow.items():
        more = torch.randint(count, (wide[size] - count,), generator=generator)
        channels[size] = torch.cat([torch.arange(count), more])
    return ChannelSources(channels, narrow)


def tiled_sources(narrow: Mapping[Size, int], wide: Mapping[Size, int]) -> ChannelSources:
    """Put the narrower channels in the middle, and continue them periodically on both sides."""
    channels = {size: (torch.arange(wide[size]) - (wide[size] - count) // 2) % count for size, count in narrow.items()}
    return ChannelSources(channels, narrow)


def copy_channels(state: State, axes: Axes, sources: ChannelSources) -> dict[str, Tensor]:
    """Copy every channel unchanged, however often it is copied."""
    return {name: _select(tensor, axes[name], sources) for name, tensor in state.items()}


def widen(
    state: State, axes: Axes, sources: ChannelSources, symmetry_breaking: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Copy channels and divide the weights that sum over them.

    `symmetry_breaking` 0 divides equally; towards 1 the fractions are drawn for every weight, so that copies differ.
    """
    widened = {}
    for name, tensor in state.items():
        wide = _select(tensor, axes[name], sources)
        for axis in axes[name]:
            if axis.summed:
                wide = wide * _fractions(wide, axis.dim, sources.indices(axis), symmetry_breaking, generator)
        widened[name] = wide
    return widened


def take_from_layer_above(wide: State, axes: Axes, sources: ChannelSources) -> dict[str, Tensor]:
    """Give the channels that were added to a layer the weights that they have in the layer above, if there is one."""
    changed = dict(wide)
    for name, tensor in wide.items():
        match = BLOCK.fullmatch(name)
        above = match and wide.get(f"{match[1]}{int(match[2]) + 1}.{match[3]}")
        if above is None:
            continue
        for axis in axes[name]:
            if not axis.summed:
                added = sources.is_added(axis).view(-1, *[1] * (tensor.dim() - axis.dim - 1))
                changed[name] = torch.where(added, above, changed[name])
    return changed


def narrow(state: State, axes: Axes, sources: ChannelSources) -> dict[str, Tensor]:
    """Replace channels with the same source by one: their mean, or their sum where they are summed over."""
    narrowed = {}
    for name, tensor in state.items():
        for axis in axes[name]:
            indices = sources.indices(axis)
            size = axis.runs * sources.counts[axis.size] * axis.unit
            shape = [size if dim == axis.dim else n for dim, n in enumerate(tensor.shape)]
            total = tensor.new_zeros(shape).index_add(axis.dim, indices, tensor)
            members = indices.bincount(minlength=size).to(tensor).view(-1, *[1] * (tensor.dim() - axis.dim - 1))
            tensor = total if axis.summed else total / members
        narrowed[name] = tensor
    return narrowed


def _select(tensor: Tensor, axes: list[Axis], sources: ChannelSources) -> Tensor:
    for axis in axes:
        tensor = tensor.index_select(axis.dim, sources.indices(axis))
    return tensor.clone()


def _fractions(wide: Tensor, dim: int, indices: Tensor, symmetry_breaking: float, generator: torch.Generator) -> Tensor:
    """Of the shape of `wide`: positive numbers that add up to one over the indices with the same source."""
    raw = torch.ones(wide.shape, dtype=torch.float64)
    if symmetry_breaking:
        raw += symmetry_breaking * (2 * torch.rand(wide.shape, dtype=torch.float64, generator=generator) - 1)
    shape = [int(indices.max()) + 1 if d == dim else n for d, n in enumerate(wide.shape)]
    total = torch.zeros(shape, dtype=torch.float64).index_add(dim, indices, raw)
    return (raw / total.index_select(dim, indices)).to(wide.dtype)
