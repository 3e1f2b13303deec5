"""Contract of masks: every check of `encodery.checks.masks` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.errors import SettingsError
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode
from encodery.checks import masks
from encodery.model.extensions.prompt import SoftPrompt
from encodery.model.masks import Mask
from encodery.model.masks.sinks import SinkMask
from encodery.model.reach import Reach
from encodery.model.settings import ModelSettings

pytestmark = pytest.mark.usefixtures("_poisoned")


@pytest.mark.parametrize("check", checks.functions(masks), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Mask))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(Mask, name)())


def test_alternating_pattern() -> None:
    mask = decode(Mask, {"is": "alternating", "size": 7, "every": 3})
    assert [mask.reach(layer, 7).left for layer in range(7)] == [None, 7, 7, None, 7, 7, None]
    shifted = decode(Mask, {"is": "alternating", "size": 7, "every": 2, "first": 1})
    assert [shifted.reach(layer, 4).right for layer in range(4)] == [7, None, 7, None]


@pytest.mark.parametrize(
    ("table", "reach"),
    [
        ({"is": "causal", "size": 5}, Reach(5, 0)),
        ({"is": "prefix", "length": 3}, Reach(right=0, prefix=3)),
        ({"is": "sinks", "size": 2, "sinks": 1}, Reach(2, 2, sinks=1)),
        ({"is": "sinks", "size": 2, "causal": True}, Reach(2, 0, sinks=4)),
        ({"is": "global_local", "size": 2, "positions": [0, 4]}, Reach(2, 2, global_positions=(0, 4))),
    ],
)
def test_settings_decide_the_reach(table: dict[str, object], reach: Reach) -> None:
    assert decode(Mask, table).reach(0, 2) == reach


@pytest.mark.parametrize(
    "table",
    [
        {"is": "window", "size": -1},
        {"is": "alternating", "every": 0},
        {"is": "sinks", "sinks": -1},
        {"is": "prefix", "length": -1},
        {"is": "global_local", "positions": [-1]},
    ],
)
def test_impossible_masks_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"(size|every|sinks|length) = |positions = "):
        decode(Mask, table)


def test_a_prompt_is_refused_with_sinks() -> None:
    with pytest.raises(SettingsError, match="extensions = 'prompt': its vectors come first in every sequence"):
        ModelSettings(mask=SinkMask(), extensions=(SoftPrompt(),))
