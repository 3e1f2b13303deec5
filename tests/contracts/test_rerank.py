"""Contract of rerankers: every check of `encodery.checks.rerankers` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from encodery import checks
from encodery.base.parts import part_names
from encodery.base.settings import decode
from encodery.checks import rerankers
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.job import EmbedJob
from encodery.embed.planning import recipe_settings
from encodery.embed.prepared import prepare_texts
from encodery.embed.reading import EmbedData
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks.rank import PassageRanking
from encodery.model.load import load_model
from encodery.search.rerank import Reranker
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.distributed import DistributedContext

CPU = torch.device("cpu")


def matching_model(folder: Path, plain: Path) -> Path:
    """A multi-vector model that is not trained."""
    loaded = load_model(plain)
    settings = recipe_settings("colbert", {"objective": {"token_dim": 16, "query_length": 16}}, loaded)
    data = EmbedData(EmbeddingExamples((["red"], ["cat"])))
    EmbedJob(settings, prepare_texts(settings, loaded, data), DistributedContext(), CPU).save(folder / "late", {})
    return folder / "late"


@pytest.fixture(scope="module", params=part_names(Reranker))
def part(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    word_tokenizer: Callable[..., Tokenizer],
    tuned_model: Callable[..., Path],
    weighing_model: Callable[..., Path],
    small_model: Callable[..., Path],
) -> Reranker:
    folder = tmp_path_factory.mktemp("rerank")
    tokenizer = word_tokenizer(["red", "one", "cat", "two", "dog", "sun"], lower=True)
    made = {
        "cross_encoder": lambda: tuned_model(folder, tokenizer, PassageRanking(), TaskMetadata(low=0.0, high=1.0)),
        "late_interaction": lambda: matching_model(folder, small_model(folder, tokenizer, max_length=24)),
        "term_weights": lambda: weighing_model(folder, tokenizer),
    }[request.param]()
    return decode(Reranker, {"is": request.param, "model": str(made)})


@pytest.mark.parametrize("check", checks.functions(rerankers), ids=lambda check: check.__name__)
def test_contract(part: Reranker, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, part)
