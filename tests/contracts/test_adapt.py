"""Contract of the adaptations: every check of `encodery.checks.adapt` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from encodery import checks
from encodery.adapt import Adaptation, count_trainable, inject, merge_and_unload
from encodery.base.parts import part_names
from encodery.base.settings import decode
from encodery.checks import adapt
from encodery.model.network import build_model

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "dora": {"rank": 4, "targets": ["query", "value", "up"]},
    "adapters": {"size": 4},
    "prompt": {"num_tokens": 5, "deep": True},
    "combined": {"parts": [{"is": "lora", "rank": 2}, {"is": "bitfit"}]},
}


@pytest.mark.parametrize("check", checks.functions(adapt), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Adaptation))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, decode(Adaptation, {"is": name, **SETTINGS.get(name, {})}))


def test_without_an_adaptation_everything_learns() -> None:
    model = build_model(adapt.SETTINGS[0])
    inject(model, None, seed=1)
    learning, total = count_trainable(model)
    assert learning == total
    assert merge_and_unload(model, None) is model
