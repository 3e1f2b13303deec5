"""What every reranker promises, over whatever parts lie in the folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch

from encodery.base.errors import UserError
from encodery.base.parts import names
from encodery.base.settings import decode, encode
from encodery.embed.data import Labelled
from encodery.embed.planning import settings_of
from encodery.embed.sparse_job import SparseJob
from encodery.finetune import artifact
from encodery.finetune.artifact import Tuned
from encodery.finetune.tasks.rank import Rank
from encodery.model.load import load_model, save_model
from encodery.model.network import ModelSettings, build_model
from encodery.search.rerank import Reranker
from encodery.tokens.tokenizer import Tokenizer
from encodery.train.distributed import Team

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ["Red cat, red sun.", "two dog", "", "red " * 60 + "cat", "one sun two cat dog"]


def bare(folder: Path) -> Path:
    """A model of a dozen words that reads 24 tokens, without a head."""
    pieces = {piece: i for i, piece in enumerate([*SPECIALS, "red", "one", "cat", "two", "dog", "sun"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[UNK]"))
    inner.normalizer = tokenizers.normalizers.Lowercase()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    inner.add_special_tokens(SPECIALS)
    tokenizer = Tokenizer(inner)
    tokenizer.set_template()
    tokenizer.save(folder / "tokenizer")
    settings = ModelSettings(width=32, depth=2, heads=2, vocab=tokenizer.vocab_size, max_length=24, head=None)
    save_model(folder / "bare", build_model(settings, seed=0), folder / "tokenizer")
    return folder / "bare"


def ranker(folder: Path) -> Path:
    """A model of the task `rank` that has learned nothing."""
    loaded = load_model(bare(folder))
    known = {"low": 0.0, "high": 1.0}
    found = Tuned(Rank(), Rank().build(loaded.model.settings.shape, known), known, {}, 24, "error")
    artifact.save(folder / "model", loaded.model, found, loaded, {}, {})
    return folder / "model"


def terms(folder: Path) -> Path:
    """A model of term weights with a head of chance."""
    loaded = load_model(bare(folder))
    data = Labelled((["red cat", "one dog"], ["a red cat", "one dog"]))
    job = SparseJob(settings_of("tilde_v2", {}, loaded), loaded, data, None, Team(), torch.device("cpu"))
    torch.manual_seed(0)
    torch.nn.init.normal_(job.pooling.linear.weight, std=1.0)  # type: ignore[union-attr]
    job.save(folder / "model", {})
    return folder / "model"


MODELS: dict[str, Callable[[Path], Path]] = {"cross_encoder": ranker, "term_weights": terms}


@pytest.fixture(scope="module", params=names(Reranker))
def part(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reranker:
    folder = MODELS[request.param](tmp_path_factory.mktemp("rerank"))
    return decode(Reranker, {"is": request.param, "model": str(folder)})


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
