"""Weights with more or fewer channels: copies whose shares add up, and means whose inputs add up.

A channel that is copied is computed twice; whatever sums over channels gives each copy a share, and shares of copies
add up to one, so that the sum is what it was. The other way, channels that become one are averaged where they are made
and added where they are summed over: what was grown comes back as it was.
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
    """For each channel of the wider model that of the narrower one it goes with, (n,) for each size; and how many the
    narrower one has."""

    channels: Mapping[Size, Tensor]
    counts: Mapping[Size, int]

    def places(self, axis: Axis) -> Tensor:
        """For each place on the wider axis that on the narrower one."""
        return axis.places(self.channels[axis.size], self.counts[axis.size])

    def added(self, axis: Axis) -> Tensor:
        """Whether a place on the wider axis is beyond the channels that the narrower one has."""
        beyond = torch.arange(len(self.channels[axis.size])) >= self.counts[axis.size]
        return beyond.repeat_interleave(axis.unit).repeat(axis.runs)


def cyclic_sources(narrow: Mapping[Size, int], wide: Mapping[Size, int]) -> ChannelSources:
    """Channel j goes with j modulo the narrower count."""
    return ChannelSources({size: torch.arange(wide[size]) % narrow[size] for size in narrow}, narrow)


def random_sources(narrow: Mapping[Size, int], wide: Mapping[Size, int], generator: torch.Generator) -> ChannelSources:
    """The first channels go with themselves, each further one with one drawn at random."""
    found = {}
    for size, count in narrow.items():
        more = torch.randint(count, (wide[size] - count,), generator=generator)
        found[size] = torch.cat([torch.arange(count), more])
    return ChannelSources(found, narrow)


def tiled_sources(narrow: Mapping[Size, int], wide: Mapping[Size, int]) -> ChannelSources:
    """The narrower channels in the middle, and on either side what follows when they repeat."""
    found = {size: (torch.arange(wide[size]) - (wide[size] - count) // 2) % count for size, count in narrow.items()}
    return ChannelSources(found, narrow)


def copy_channels(state: State, axes: Axes, sources: ChannelSources) -> dict[str, Tensor]:
    """Every channel as it is, however often it is there."""
    return {name: _selected(tensor, axes[name], sources) for name, tensor in state.items()}


def widen(
    state: State, axes: Axes, sources: ChannelSources, uneven: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Copies and shares. `uneven` 0: equal shares; towards 1: drawn anew for every weight, so that copies differ."""
    found = {}
    for name, tensor in state.items():
        wide = _selected(tensor, axes[name], sources)
        for axis in axes[name]:
            if axis.summed:
                wide = wide * _shares(wide, axis.dim, sources.places(axis), uneven, generator)
        found[name] = wide
    return found


def take_from_layer_above(wide: State, axes: Axes, sources: ChannelSources) -> dict[str, Tensor]:
    """Channels that were added to a layer take the weights that the same channels have in the layer above it, where
    there is one."""
    found = dict(wide)
    for name, tensor in wide.items():
        match = BLOCK.fullmatch(name)
        above = match and wide.get(f"{match[1]}{int(match[2]) + 1}.{match[3]}")
        if above is None:
            continue
        for axis in axes[name]:
            if not axis.summed:
                added = sources.added(axis).view(-1, *[1] * (tensor.dim() - axis.dim - 1))
                found[name] = torch.where(added, above, found[name])
    return found


def narrow(state: State, axes: Axes, sources: ChannelSources) -> dict[str, Tensor]:
    """Channels that go with the same one become one: their mean, or their sum where they are summed over."""
    found = {}
    for name, tensor in state.items():
        for axis in axes[name]:
            places = sources.places(axis)
            size = axis.runs * sources.counts[axis.size] * axis.unit
            shape = [size if dim == axis.dim else n for dim, n in enumerate(tensor.shape)]
            total = tensor.new_zeros(shape).index_add(axis.dim, places, tensor)
            members = places.bincount(minlength=size).to(tensor).view(-1, *[1] * (tensor.dim() - axis.dim - 1))
            tensor = total if axis.summed else total / members
        found[name] = tensor
    return found


def _selected(tensor: Tensor, axes: list[Axis], sources: ChannelSources) -> Tensor:
    for axis in axes:
        tensor = tensor.index_select(axis.dim, sources.places(axis))
    return tensor.clone()


def _shares(wide: Tensor, dim: int, places: Tensor, uneven: float, generator: torch.Generator) -> Tensor:
    """Of the shape of `wide`: positive numbers that add up to one over the places that go with the same one."""
    raw = torch.ones(wide.shape, dtype=torch.float64)
    if uneven:
        raw += uneven * (2 * torch.rand(wide.shape, dtype=torch.float64, generator=generator) - 1)
    shape = [int(places.max()) + 1 if d == dim else n for d, n in enumerate(wide.shape)]
    total = torch.zeros(shape, dtype=torch.float64).index_add(dim, places, raw)
    return (raw / total.index_select(dim, places)).to(wide.dtype)
