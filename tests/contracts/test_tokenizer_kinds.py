"""Contract of the tokenizer kinds: every check of `encodery.checks.tokenizer_kinds` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from encodery import checks
from encodery.base.parts import part_names
from encodery.base.settings import decode
from encodery.checks import tokenizer_kinds
from encodery.tokens.kind import TokenizerKind
from encodery.tokens.kind.wordpiece import Wordpiece


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("wordpiece")
    tokenizer_kinds.trained(Wordpiece()).save(folder)
    return {"hub": {"folder": str(folder)}}


@pytest.mark.parametrize("check", checks.functions(tokenizer_kinds), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(TokenizerKind))
def test_contract(
    name: str, check: checks.Check, settings: dict[str, dict[str, Any]], run_check: Callable[..., None]
) -> None:
    run_check(check, decode(TokenizerKind, {"is": name, **settings.get(name, {})}))
