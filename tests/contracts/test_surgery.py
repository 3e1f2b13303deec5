"""Contract of surgery: every check of `encodery.checks.surgery` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from encodery import checks
from encodery.base.parts import part_names
from encodery.base.settings import decode
from encodery.checks import surgery
from encodery.surgery import Surgery
from encodery.tokens.kind.bpe import Bpe
from encodery.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer(Bpe().train(surgery.TEXTS, 300)).save(folder)
    return {
        "lengthen": {"max_length": 40},
        "vocabulary": {"tokenizer": str(folder)},
        "grow": {"width": 32, "depth": 2},
        "low_rank": {"rank": 6},
        "tile": {"width": 32, "depth": 2},
    }


@pytest.mark.parametrize("check", checks.functions(surgery), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Surgery))
def test_contract(
    name: str, check: checks.Check, settings: dict[str, dict[str, Any]], run_check: Callable[..., None]
) -> None:
    run_check(check, decode(Surgery, {"is": name, **settings.get(name, {})}))
