"""What every reranker promises, over whatever parts lie in the folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from encodery.base.errors import UserError
from encodery.base.parts import part_names
from encodery.base.settings import decode, encode
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.job import EmbedJob
from encodery.embed.planning import recipe_settings
from encodery.embed.reading import EmbedData
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks.rank import PassageRanking
from encodery.model.load import load_model
from encodery.search.rerank import Reranker
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.distributed import DistributedContext

CPU = torch.device("cpu")
TEXTS = ["Red cat, red sun.", "two dog", "", "red " * 60 + "cat", "one sun two cat dog"]


def matching_model(folder: Path, plain: Path) -> Path:
    """A model of token vectors that has learnt nothing."""
    loaded = load_model(plain)
    settings = recipe_settings("colbert", {"objective": {"token_dim": 16, "query_length": 16}}, loaded)
    data = EmbedData(EmbeddingExamples((["red"], ["cat"])))
    EmbedJob(settings, loaded, data, DistributedContext(), CPU).save(folder / "late", {})
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


def test_each_text_has_a_finite_score_whatever_stands_beside_it(part: Reranker) -> None:
    scorer = part.open()
    scores = scorer.score("red cat", TEXTS)
    assert scores.shape == (len(TEXTS),)
    assert np.isfinite(scores).all()
    assert len(set(scores.tolist())) > 1
    alone = [float(scorer.score("red cat", [text])[0]) for text in TEXTS]
    assert scores == pytest.approx(alone, abs=1e-5)
    assert scorer.score("red cat", TEXTS[::-1]) == pytest.approx(scores[::-1], abs=1e-5)
    assert scorer.score("red cat", []).shape == (0,)
    assert not np.allclose(scorer.score("one dog", TEXTS), scores), "the query counts"


def test_it_is_settings_and_refuses_what_is_no_model(part: Reranker, tmp_path: Path) -> None:
    assert decode(Reranker, encode(part)) == part
    with pytest.raises(UserError):
        decode(Reranker, {**encode(part), "model": ""})
    with pytest.raises(UserError):
        decode(Reranker, {**encode(part), "model": str(tmp_path / "nowhere")}).open()
