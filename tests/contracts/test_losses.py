"""Contract of the losses of embeddings: every check of `encodery.checks.losses` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import losses
from encodery.embed.losses import Loss


@pytest.mark.parametrize("check", checks.functions(losses), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Loss))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, losses.example_part(find_part(Loss, name)))
