"""Contract of attentions: every check of `encodery.checks.attention` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from encodery import checks
from encodery.base.parts import part_names
from encodery.base.settings import decode
from encodery.checks import attention
from encodery.model.attention import Attention
from encodery.model.attention.full import FullAttention
from encodery.model.head_weights import HeadWeights, OffsetPattern
from encodery.model.reach import Reach

SETTINGS = {"pattern": {"of": ["full", {"is": "full", "bias": False}]}}
pytestmark = pytest.mark.usefixtures("_poisoned")


@pytest.mark.parametrize("check", checks.functions(attention), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Attention))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, decode(Attention, {"is": name, **SETTINGS.get(name, {})}))


def test_an_offset_pattern_is_loaded_completely_or_not_at_all() -> None:
    source = torch.Generator().manual_seed(0)
    weights, biases = torch.randn(2, 4, 12, generator=source), torch.randn(2, 4, generator=source)
    with_biases, without = (_second_head(FullAttention(bias=bias)) for bias in (True, False))
    assert with_biases.load_offset_pattern(OffsetPattern(weights, biases))
    assert torch.equal(with_biases.query, weights[0])
    assert torch.equal(with_biases.key, weights[1])
    assert torch.equal(torch.stack([with_biases.query_bias, with_biases.key_bias]), biases)
    query, key = without.query.clone(), without.key.clone()
    assert not without.load_offset_pattern(OffsetPattern(weights, biases))
    assert torch.equal(without.query, query)
    assert torch.equal(without.key, key)
    assert without.load_offset_pattern(OffsetPattern(weights))
    assert torch.equal(without.key, weights[1])


def _second_head(part: FullAttention) -> HeadWeights:
    module, _, _ = attention.example(part, Reach())
    return module.float().head_weights()[1]
