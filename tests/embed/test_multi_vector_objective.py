"""Training of multi-vector embeddings: what the losses see, what is learned, what is loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import ArtifactError, SettingsError
from encodery.embed.loss_inputs import TokenInputs
from encodery.encoders.multi_vector import KEY, MultiVectorEncoder
from encodery.model.checkpoint import read_tensors, write_tensors
from encodery.model.load import load_model
from encodery.train.precision import autocast

OBJECTIVE = {"is": "multi_vector", "token_dim": 16}
CPU = torch.device("cpu")


def token_vectors(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token embeddings of unit length, and the text of each token."""
    vectors = torch.randn(sum(lengths), 5, generator=torch.Generator().manual_seed(seed))
    owners = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return torch.nn.functional.normalize(vectors, dim=1), owners


def test_similarities_are_means_of_the_best_matches() -> None:
    (left, left_owner), (right, right_owner) = token_vectors([3, 1, 4], 0), token_vectors([2, 6, 1], 1)
    inputs = TokenInputs((left, right), owners=(left_owner, right_owner), num_examples=3)
    best = [[(left[left_owner == i] @ right[right_owner == j].T).amax(1).mean() for j in range(3)] for i in range(3)]
    torch.testing.assert_close(inputs.cross(0, 1), torch.tensor(best))
    torch.testing.assert_close(inputs.pairs(0, 1), torch.tensor(best).diagonal())
    assert (inputs.batch_size, inputs.num_columns, inputs.dim) == (3, 2, 5)


@pytest.mark.parametrize(
    "loss", [{"is": "matryoshka", "loss": "infonce"}, {"is": "matryoshka_layers", "loss": "infonce"}, "angle"]
)
def test_losses_of_single_vectors_are_refused(loss: Any, make_job: Any, pairs: Any) -> None:
    data = pairs(16, 1)
    if loss == "angle":
        data = type(data)(data.columns, "score", np.linspace(0, 1, 16, dtype=np.float32))
    with pytest.raises(SettingsError, match="needs one vector per text, and objective = 'multi_vector'"):
        make_job(data, objective=OBJECTIVE, loss=loss)


def test_token_vectors_are_learned_and_come_back(make_job: Any, train_steps: Any, pairs: Any, tmp_path: Path) -> None:
    job = make_job(pairs(200, 1), pairs(60, 2), objective=OBJECTIVE)
    before = job.score(100_000)
    losses = [step["loss"] for step in train_steps(job, 40, progress=1.0)]
    assert job.score(100_000)["ndcg"] > before["ndcg"] + 0.1
    assert losses[-1] < 0.6 * losses[0]
    job.save(tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    encoder = MultiVectorEncoder.from_loaded(again, CPU)
    assert encoder.dimension == 16
    indices, pool = job.texts.indices[:6], job.texts.pool
    texts = np.unique(indices)
    queries, documents = ([pool.texts[int(n)] for n in indices[:, c]] for c in (0, 1))
    scores = encoder.similarity(encoder.encode(queries, batch_tokens=20), encoder.encode(documents))
    places = np.searchsorted(texts, indices)
    compared = job.objective.compare(pool, texts)
    expected = compared.cross(places[:, 0], places[:, 1])
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    np.testing.assert_allclose(compared.pairs(places[:, 0], places[:, 1]), expected.diagonal(), atol=1e-5)
    further = make_job(pairs(20, 1), model=again, objective=OBJECTIVE)
    torch.testing.assert_close(further.module["projection"].state_dict(), job.module["projection"].state_dict())
    file = tmp_path / "model" / "modules" / f"{KEY}.safetensors"
    tensors = read_tensors(file)
    write_tensors(file, {**tensors, "linear.weight": tensors["linear.weight"].flip(0)})
    with pytest.raises(ArtifactError, match="no longer computes"):
        MultiVectorEncoder.from_loaded(load_model(tmp_path / "model", verify=False))


def test_chunks_give_the_gradient_of_one_pass(make_job: Any, backward: Any, pairs: Any) -> None:
    grads = []
    for tokens in (100_000, 50):
        job = make_job(pairs(16, 1), objective=OBJECTIVE, train={"micro_batch_tokens": tokens})
        backward(job, job.batches(0, 0.0, 0, None))
        grads.append([p.grad for p in job.module.parameters() if p.grad is not None])
    for whole, chunked in zip(*grads, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-4, atol=1e-6)


def test_vectors_of_bfloat16_are_compared_in_fp32(make_job: Any, pairs: Any) -> None:
    job = make_job(pairs(16, 1), pairs(20, 2), objective=OBJECTIVE)
    texts = np.arange(20)
    compared = job.objective.compare(job.texts.pool, texts)
    with autocast("bf16", CPU):
        assert job.score(100_000)["ndcg"] > 0
        queries, documents = compared.encode(texts, "query"), compared.encode(texts, "document")
        crossed, paired = compared.cross(texts, texts), compared.pairs(texts, texts)
    expected = [[(queries.at(i) @ documents.at(j).T).max(1).sum() for j in range(20)] for i in range(20)]
    assert crossed.dtype == paired.dtype == np.float32
    np.testing.assert_allclose(crossed, expected, rtol=1e-5)
    np.testing.assert_allclose(paired, np.diagonal(expected), rtol=1e-5)
    exact = compared.encode(texts, "query")
    assert not np.array_equal(exact.vectors, queries.vectors), "the vectors above were computed in bfloat16"


def test_queries_are_padded_and_punctuation_skipped_as_in_use(make_job: Any, pairs: Any, tmp_path: Path) -> None:
    objective = {**OBJECTIVE, "query_length": 9, "skip_punctuation": True}
    job = make_job(pairs(8, 1), objective=objective, batch=8)
    batch, module = job.batches(0, 0.0, 0, None).micro_batches[0].batch, job.objective
    skipped, comma = module.skipped, int(job.texts.pool.ids[-1])  # A token that is taken for a comma.
    module.skipped = torch.tensor([comma])
    lengths = batch.cu_seqlens.diff()
    assert lengths[batch.extra["place"]].tolist() == [9] * 8 + [5] * 8
    has_vector = module._has_vector(batch, True)
    assert 0 < int((~has_vector).sum()) == int((batch.ids == comma).sum())
    assert module._has_vector(batch, False).all()
    module.skipped = skipped
    job.save(tmp_path / "model", {})
    encoder = MultiVectorEncoder.from_loaded(load_model(tmp_path / "model"), CPU)
    assert encoder.settings.query_length == 9
    texts = np.unique(job.texts.indices[:3])
    names = [job.texts.pool.texts[int(n)] for n in texts]
    expected = encoder.similarity(encoder.encode(names, prompt="query"), encoder.encode(names, prompt="document"))
    every = np.arange(len(texts))
    compared = job.objective.compare(job.texts.pool, texts)
    np.testing.assert_allclose(compared.cross(every, every), expected, rtol=1e-4)
    np.testing.assert_allclose(compared.pairs(every, every), expected.diagonal(), rtol=1e-4)
