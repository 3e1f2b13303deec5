"""Contract of masks: every check of `encodery.checks.masks` on every part in the folder; what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.errors import SettingsError
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode
from encodery.checks import masks
from encodery.model.masks import Mask


@pytest.mark.parametrize("check", checks.functions(masks), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Mask))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(Mask, name)())


def test_alternating_pattern() -> None:
    mask = decode(Mask, {"is": "alternating", "size": 7, "every": 3})
    assert [mask.reach(layer, 7).left for layer in range(7)] == [None, 7, 7, None, 7, 7, None]
    shifted = decode(Mask, {"is": "alternating", "size": 7, "every": 2, "first": 1})
    assert [shifted.reach(layer, 4).right for layer in range(4)] == [7, None, 7, None]


@pytest.mark.parametrize("table", [{"is": "window", "size": -1}, {"is": "alternating", "every": 0}])
def test_impossible_masks_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"size = |every = "):
        decode(Mask, table)
