"""Contract of norms: every check of `encodery.checks.norms` on every part in the folder, with a bias and without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode
from encodery.checks import norms
from encodery.model.norms import Norm

pytestmark = pytest.mark.usefixtures("_poisoned")


@pytest.mark.parametrize("check", checks.functions(norms), ids=lambda check: check.__name__)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", part_names(Norm))
def test_contract(name: str, bias: bool, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(Norm, name)(bias=bias))


def test_rms_equals_layer_on_centred_rows() -> None:
    x = torch.randn(4, 16)
    x = x - x.mean(1, keepdim=True)
    layer, rms = (decode(Norm, {"is": name, "eps": 1e-6}).build(16)(x) for name in ("layer", "rms"))
    torch.testing.assert_close(layer, rms)
