"""Contract of blocks: every check of `encodery.checks.blocks` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from encodery import checks
from encodery.base.parts import part_names
from encodery.base.settings import decode
from encodery.checks import blocks
from encodery.model.blocks import Block
from encodery.model.blocks.post import PostNorm
from encodery.model.blocks.pre import PreNorm
from encodery.model.norms.layer import LayerNorm

SETTINGS = {"pattern": {"of": ["post", "pre"]}}
pytestmark = pytest.mark.usefixtures("_poisoned")


@pytest.mark.parametrize("check", checks.functions(blocks), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Block))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, decode(Block, {"is": name, **SETTINGS.get(name, {})}))


def test_pre_and_post_place_the_residual() -> None:
    x, layout = blocks.example_states(), blocks.layout(*blocks.LENGTHS)
    norm = LayerNorm().build(12).double()
    pre, post = (blocks.example(part, std=0.0)(x, layout, blocks.POSITIONS) for part in (PreNorm(), PostNorm()))
    torch.testing.assert_close(pre, x)
    torch.testing.assert_close(post, norm(norm(x)))
