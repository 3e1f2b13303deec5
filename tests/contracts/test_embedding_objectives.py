"""Contract of the objectives of embedding training: every check of `encodery.checks.embedding_objectives` on every part
in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import embedding_objectives
from encodery.embed.objectives import EmbeddingObjective


@pytest.mark.parametrize("check", checks.functions(embedding_objectives), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(EmbeddingObjective))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(EmbeddingObjective, name)())
