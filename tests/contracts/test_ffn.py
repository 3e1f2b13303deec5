"""Contract of feed-forward layers: every check of `encodery.checks.ffn` on every part, with every activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from encodery import checks
from encodery.base.parts import part_names
from encodery.base.settings import decode
from encodery.checks import ffn
from encodery.model.ffn import FFN
from encodery.model.ffn.glu import GLU
from encodery.model.weights import ActivationName

pytestmark = pytest.mark.usefixtures("_poisoned")


@pytest.mark.parametrize("check", checks.functions(ffn), ids=lambda check: check.__name__)
@pytest.mark.parametrize("activation", get_args(ActivationName))
@pytest.mark.parametrize("name", part_names(FFN))
def test_contract(name: str, activation: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    glu = {"is": "glu", "activation": activation}
    composite = {"pattern": {"of": ["mlp", glu]}, "mixture": {"expert": glu}, "low_rank": {"ffn": glu, "rank": 3}}
    settings = composite.get(name, {"activation": activation})
    run_check(check, decode(FFN, {"is": name, **settings}))


def test_the_first_half_of_a_glu_is_the_gate() -> None:
    module, x = ffn.example(GLU(activation="gelu_tanh")), ffn.example_states()
    gate, value = (x @ module.up.weight.t()).split(10, dim=1)
    expected = (F.gelu(gate, approximate="tanh") * value) @ module.down.weight.t()
    torch.testing.assert_close(module(x), expected)
