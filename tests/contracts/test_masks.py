"""Contract of masks, for all parts in the folder."""

from __future__ import annotations

import pytest

from encodery.base.errors import SettingsError
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.model.masks import Mask
from encodery.model.reach import Reach


@pytest.mark.parametrize("name", part_names(Mask))
def test_what_every_mask_does(name: str) -> None:
    part = find_part(Mask, name)()
    assert decode(Mask, encode(part)) == part
    assert all(isinstance(part.reach(layer, 12), Reach) for layer in range(12))


def test_alternating_pattern() -> None:
    mask = decode(Mask, {"is": "alternating", "size": 7, "every": 3})
    assert [mask.reach(layer, 7).left for layer in range(7)] == [None, 7, 7, None, 7, 7, None]
    shifted = decode(Mask, {"is": "alternating", "size": 7, "every": 2, "first": 1})
    assert [shifted.reach(layer, 4).right for layer in range(4)] == [7, None, 7, None]


@pytest.mark.parametrize("table", [{"is": "window", "size": -1}, {"is": "alternating", "every": 0}])
def test_impossible_masks_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"size = |every = "):
        decode(Mask, table)
