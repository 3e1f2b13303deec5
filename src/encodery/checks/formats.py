"""Checks of checkpoint formats, on the example that the format declares, with a tied, an untied and no head."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from typing import Any, get_args

import torch

from encodery.base.errors import SettingsError
from encodery.base.parts import find_part, name_of, part_names
from encodery.checks import raised_message
from encodery.model.conversion import exportable_format, from_checkpoint, to_checkpoint
from encodery.model.extra_heads import ExtraHead
from encodery.model.format_types import HeadKind, SpecialTokenIds
from encodery.model.formats import CheckpointFormat
from encodery.model.heads.mlm import MLMHead
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings

SPECIAL = SpecialTokenIds(pad=0, cls=2, sep=3, mask=4)


def random_model(settings: ModelSettings) -> Model:
    """Return a model whose weights are all random, those of norms and biases too."""
    model = build_model(settings, 0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())) * 0.1)
    return model


def variants(part: CheckpointFormat) -> Iterator[ModelSettings]:
    """Yield the example with a tied decoder, with an untied one, and with the heads of every other stock class."""
    example = part.example()
    assert isinstance(example.head, MLMHead), "the example has no masked-language-model head"
    for head in (example.head, dataclasses.replace(example.head, tied=not example.head.tied)):
        yield dataclasses.replace(example, head=head)
    for names in part.stock_classes.keys() - {example.head_name}:
        heads = [] if names is None else names.split("+")
        extra = tuple(find_part(ExtraHead, name)() for name in heads if name != name_of(MLMHead))
        yield dataclasses.replace(example, head=example.head if name_of(MLMHead) in heads else None, extra_heads=extra)


def round_trip(model: Model, part: CheckpointFormat | None = None) -> tuple[Model, dict[str, Any]]:
    """Write a model as a checkpoint, by default of the first format that can express it, and read it again.

    Returns the model that was read, and the config.json.
    """
    chosen = exportable_format(model.settings, SPECIAL) if part is None else part
    config = json.loads(json.dumps(chosen.write_config(model.settings, SPECIAL)))
    return from_checkpoint(chosen, config, to_checkpoint(chosen, config, model, None))[0], config


def check_example_is_expressible(part: CheckpointFormat) -> None:
    """The format has no incompatibility with its example."""
    for settings in variants(part):
        assert not part.incompatibilities(settings, SPECIAL)


def check_round_trip(part: CheckpointFormat) -> None:
    """A model that is written and read again has the same settings and weights."""
    for settings in variants(part):
        model = random_model(settings)
        again, _ = round_trip(model, part)
        assert again.settings == settings
        assert model.state_dict().keys() == again.state_dict().keys()
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), f"{name} differs"


def check_one_format_matches(part: CheckpointFormat) -> None:
    """Exactly one format of the folder claims the config.json that this one writes."""
    for settings in variants(part):
        config = part.write_config(settings, SPECIAL)
        matching = [
            name for name in part_names(CheckpointFormat) if find_part(CheckpointFormat, name)().matches(config)
        ]
        assert matching in ([name_of(part)], []), f"claimed by {matching}"
        assert part.matches(config)


def check_names_are_complete(part: CheckpointFormat) -> None:
    """`tensor_names` names every tensor of the example, and no other."""
    for settings in variants(part):
        config = part.write_config(settings, SPECIAL)
        assert set(part.tensor_names(config, settings)) == set(build_model(settings).state_dict())


def check_heads_are_declared_or_refused(part: CheckpointFormat) -> None:
    """Each kind of task head has a declared place, or is refused by a `SettingsError` that names it."""
    config = part.write_config(part.example(), SPECIAL)
    for kind in get_args(HeadKind):
        if kind in part.heads:
            assert "out" in part.head_form(kind, config).layers, f"{kind}: the last layer has no place"
        else:
            message = raised_message(SettingsError, functools.partial(part.head_form, kind, config))
            assert kind in message
