"""Contract of the transfers: every check of `encodery.checks.transfer` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from encodery import checks
from encodery.base.parts import part_names
from encodery.base.settings import decode
from encodery.checks import transfer
from encodery.tokens.transfer import Transfer


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("texts")
    words = sorted({word for text in transfer.TEXTS for word in text.split()})
    (folder / "texts.txt").write_text("\n".join(transfer.TEXTS), encoding="utf-8")
    (folder / "pairs.tsv").write_text("".join(f"{word}\t{word}\n" for word in words), encoding="utf-8")
    texts, pairs = str(folder / "texts.txt"), str(folder / "pairs.tsv")
    return {
        "similar_pieces": {"texts": texts, "width": 8},
        "bilingual": {"source_texts": texts, "target_texts": texts, "dictionary": pairs, "width": 8},
    }


@pytest.mark.parametrize("check", checks.functions(transfer), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Transfer))
def test_contract(
    name: str, check: checks.Check, settings: dict[str, dict[str, Any]], run_check: Callable[..., None]
) -> None:
    run_check(check, decode(Transfer, {"is": name, **settings.get(name, {})}))
