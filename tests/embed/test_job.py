"""Training of embeddings: what is learned, from every shape of data, and what is left of it on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import ArtifactError, EmptyInput, SettingsError
from encodery.base.settings import decode, encode
from encodery.embed import heldout_metrics
from encodery.embed.data import EmbeddingExamples, default_loss, negative_columns, prepare_for_loss
from encodery.embed.heldout_metrics import EncodedVectors, nearest_neighbour_accuracy, retrieval_metrics
from encodery.embed.job import LATER, EmbedJob
from encodery.embed.losses import LossInputs
from encodery.embed.losses.cosent import CoSENT
from encodery.embed.losses.infonce import InfoNCE
from encodery.embed.losses.matryoshka import Matryoshka
from encodery.embed.losses.triplet import Triplet
from encodery.embed.training import EmbedTraining, default_batch_size, default_epochs, default_optimizer
from encodery.encoders.dense import DenseEncoder, first_layers
from encodery.encoders.settings import DenseSettings
from encodery.model.load import LoadedModel, load_model
from encodery.train.distributed import DistributedContext
from encodery.train.execution.plain import Plain
from encodery.train.optim.adamw import AdamW
from encodery.train.step import forward_backward

CPU = torch.device("cpu")
PROMPTS = {"query": "a ", "document": "b ", "other": "c "}


def job(
    loaded: LoadedModel,
    data: EmbeddingExamples,
    dev: EmbeddingExamples | None = None,
    team: DistributedContext | None = None,
    **over: Any,
) -> EmbedJob:
    train = {"precision": "fp32", "micro_batch_tokens": 4096, **over.pop("train", {})}
    table = {"loss": encode(default_loss(data)), "batch": 16, "train": train, **over}
    return EmbedJob(decode(EmbedTraining, table), loaded, data, dev, team or DistributedContext(), CPU)


def run(work: EmbedJob, steps: int, lr: float = 3e-3) -> list[float]:
    """The losses of so many steps."""
    optimizer = AdamW(lr=lr).build(work.module)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        terms = forward_backward(
            Plain().build(work, DistributedContext(), torch.device("cpu")),
            work.batches(step, 0.0, 0, None),
            DistributedContext(),
            "fp32",
            0,
            step,
        )
        optimizer.step()
        learned = [term for term in terms[0].values() if term.weight]
        losses.append(sum(float(t.total) / float(t.count) * t.weight for t in learned))
    return losses


def test_pairs_are_learned_and_found_among_held_out_ones(loaded: LoadedModel, pairs: Any) -> None:
    work = job(loaded, pairs(200, 1), pairs(60, 2))
    before = work.score(100_000)
    losses = run(work, 60)
    after = work.score(100_000)
    assert set(after) == {"ndcg", "mrr"}
    assert losses[-1] < 0.5 * losses[0]
    assert after["ndcg"] > before["ndcg"] + 0.2
    assert work.selection_metric(after) == after["ndcg"] + LATER * work.position / len(work.lengths), (
        "of equals the later one"
    )
    assert work.module.training
    fewer = work.score(200)
    assert fewer["ndcg"] > 0, "a few examples are enough"


def test_of_equal_scores_the_later_weights_are_the_best(loaded: LoadedModel, pairs: Any) -> None:
    work = job(loaded, pairs(64, 1), pairs(5, 2))
    first = work.selection_metric({"ndcg": 1.0, "mrr": 1.0})
    work.batches(0, 0.0, 0, None)
    later = work.selection_metric({"ndcg": 1.0, "mrr": 1.0})
    assert first is not None
    assert later is not None
    assert later > first
    assert work.selection_metric({"ndcg": 1.0 - 1e-6}) < first  # type: ignore[operator]
    again = job(loaded, pairs(64, 1), pairs(5, 2))
    again.load_state(work.state())
    assert again.selection_metric({"ndcg": 1.0}) == later, "a resumed run judges alike"
    assert work.selection_metric({}) is None
    settings = decode(EmbedTraining, {"loss": {"is": "infonce"}})
    few = EmbedJob(settings, loaded, pairs(64, 1), pairs(5, 2), DistributedContext(), CPU, decides=False)
    assert few.selection_metric({"ndcg": 1.0}) is None
    assert "ndcg" in few.score(1000), "it is told all the same"


def test_dev_rows_looked_at_are_drawn_once_and_whatever_the_seed(loaded: LoadedModel, pairs: Any) -> None:
    one, other = (job(loaded, pairs(40, 1), pairs(60, 2), train={"seed": seed}) for seed in (0, 1))
    data, _, numbers = one._some(200)
    assert data.columns == other._some(200)[0].columns
    assert 5 < len(data) == len(numbers) < 60
    assert list(data.columns[0]) != pairs(60, 2).columns[0][: len(data)], "not the first ones"
    assert len(one._some(100_000)[0]) == 60


def test_rows_of_a_test_are_judged_once_with_the_weights_that_are_saved(
    loaded: LoadedModel, pairs: Any, tmp_path: Path
) -> None:
    table = {"loss": {"is": "infonce"}, "batch": 16, "train": {"precision": "fp32"}}
    settings = decode(EmbedTraining, table)
    seen = []

    class Watched(EmbedJob):
        def compared(self, pool: Any, texts: Any) -> Any:
            seen.append(pool)
            return super().compared(pool, texts)

    work = Watched(
        settings, loaded, pairs(64, 1), pairs(20, 2), DistributedContext(), CPU, test=pairs(50, 3), notes=["a note"]
    )
    assert work.test is not None
    work.score(1000)
    run(work, 5)
    assert work.test[1] not in seen
    assert "test_ndcg" not in work.metrics()
    work.save(tmp_path / "model", {"tokens": 100, "tokens_per_s": 50.0})
    assert [pool is work.test[1] for pool in seen].count(True) == 1
    told = DenseEncoder.from_loaded(load_model(tmp_path / "model"))
    vectors = EncodedVectors(told.encode(work.test[1].texts).vectors)
    expected = retrieval_metrics(vectors, work.test[2])
    assert work.metrics()["test_ndcg"] == pytest.approx(expected["ndcg"])
    assert work.metrics()["test_mrr"] == pytest.approx(expected["mrr"])
    assert work.metrics()["samples_per_s"] == pytest.approx(40.0)
    drawn = json.loads((tmp_path / "details.json").read_text())
    assert drawn["notes"] == ["a note"]
    assert drawn["test"]["rows"] == 50
    assert drawn["test"]["metrics"]["ndcg"] == work.metrics()["test_ndcg"]
    assert drawn["dev"]["rows"] == 20


def test_figures_are_the_same_in_pieces(pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 8)).astype(np.float32)
    texts = EncodedVectors(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    numbers = np.stack([rng.integers(0, 25, 40), rng.integers(20, 60, 40)], 1)
    classes = rng.integers(0, 4, 40)
    whole = retrieval_metrics(texts, numbers), nearest_neighbour_accuracy(texts, numbers[:, :1], classes)
    for cells in (1, 100, 137):
        monkeypatch.setattr(heldout_metrics, "CELLS", cells)
        assert retrieval_metrics(texts, numbers) == pytest.approx(whole[0])
        assert nearest_neighbour_accuracy(texts, numbers[:, :1], classes) == whole[1]


LONG = {"truncate": "chunk", "encoder": {"max_length": 6, "prompts": PROMPTS}, "dropout": 0.0}


def long_pairs(pairs: Any, count: int, seed: int) -> EmbeddingExamples:
    """Pairs of which some texts need several windows of four tokens."""
    left, right = pairs(count, seed).columns
    return EmbeddingExamples(
        ([f"{t} {t}" if i % 3 else t for i, t in enumerate(left)], [f"{t} b1 b2 b3" for t in right])
    )


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"encoder": {**LONG["encoder"], "pooling": "attention"}},  # type: ignore[dict-item]
        {
            "encoder": {**LONG["encoder"], "postprocess": [{"is": "whiten", "power": 1.0}, "normalise"]},
            "whiten_before_training": True,
        },  # type: ignore[dict-item]
        {"loss": {"is": "triplet"}, "train": {"micro_batch_tokens": 40}},
    ],
    ids=["mean", "learned pooling", "whitened first", "alone in small micro-batches"],
)
def test_a_long_text_is_trained_as_it_is_used(
    how: dict[str, Any], loaded: LoadedModel, pairs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = long_pairs(pairs, 64, 1)
    if "loss" in how:
        data = EmbeddingExamples((*data.columns, data.columns[1][1:] + data.columns[1][:1]))
    work = job(loaded, data, long_pairs(pairs, 20, 2), **{**LONG, **how})
    assert work.examples.has_windows
    run(work, 3)
    work.save(tmp_path / "model", {})
    embedder = DenseEncoder.from_loaded(load_model(tmp_path / "model"))
    seen: list[tuple[LossInputs, Any]] = []
    told = type(work.loss).terms
    monkeypatch.setattr(type(work.loss), "terms", lambda loss, given: seen.append(given) or told(loss, given))
    chosen, place = work._next_examples(work.position, 16), {}
    work.module.eval()
    for micro in work.batches(3, 0.0, 0, None).micro_batches:
        work.terms(micro.batch)
        assert int(micro.batch.cu_seqlens.diff().max()) <= 6
        for row, texts in enumerate(micro.batch.extra["texts"].T.tolist()):
            place[tuple(texts)] = (seen[-1], row)
    assert len(place) == 16
    for number in chosen.tolist():
        texts = [data.columns[column][number] for column in range(len(data.columns))]
        given, row = place[tuple(work.examples.text_ids[work.numbers[number]].tolist())]
        for column, text in enumerate(texts):
            expected = embedder.encode([text], "chunk", prompt="document" if column else "query").vectors[0]
            mine = torch.nn.functional.normalize(given.vectors[column][row].detach(), dim=0).numpy()
            np.testing.assert_allclose(mine, expected, atol=2e-5)
    assert work.dev is not None
    pool, numbers = work.dev[1:]
    rows = work.compared(pool, numbers[:, 0])
    assert isinstance(rows, EncodedVectors)
    asked = [pool.texts[int(number)] for number in numbers[:, 0]]
    np.testing.assert_allclose(embedder.encode(asked, "chunk", prompt="query").vectors, rows.vectors, atol=2e-5)


def test_every_window_of_a_long_text_is_learned_from(loaded: LoadedModel, pairs: Any) -> None:
    data = EmbeddingExamples((["a1 a2 a3 a4 a5 a6 a7 a8 a9", "a30"], ["b1 b2", "b3 b4 b5 b6 b7"]))
    grads = []
    for tokens in (10_000, 12):
        embed = {"max_length": 5, "prompts": {}}
        work = job(loaded, data, **{**LONG, "encoder": embed}, batch=2, train={"micro_batch_tokens": tokens})
        assert work.lengths.tolist() == [9 + 3 * 2 + 4, 3 + 5 + 2 * 2], "as many as go through the model"
        step = work.batches(0, 0.0, 0, None)
        assert step.tokens == sum(micro.batch.tokens for micro in step.micro_batches) == 31
        forward_backward(
            Plain().build(work, DistributedContext(), torch.device("cpu")), step, DistributedContext(), "fp32", 0, 0
        )
        grads.append([p.grad for p in work.model.encoder.parameters()])
        words = work.model.encoder.token_embeddings.grad
        assert words is not None
        for text in ("a1", "a5", "a9", "b7"):
            assert words[int(loaded.tokenizer.encode(text)[0])].abs().sum() > 0
        assert words[int(loaded.tokenizer.encode("a20")[0])].abs().sum() == 0
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_texts_that_fit_are_learned_from_as_ever(loaded: LoadedModel, pairs: Any) -> None:
    losses = [run(job(loaded, pairs(40, 1), truncate=truncate), 4) for truncate in ("right", "chunk")]
    assert losses[0] == losses[1]


def test_windows_of_encoded_texts_keep_the_budget(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    data = EmbeddingExamples(([" ".join(["a1"] * 60), "a2"], ["b1", "b2"]))
    work = job(loaded, data, **LONG, train={"micro_batch_tokens": 30})
    sizes = []
    plain = work._vectors
    monkeypatch.setattr(work, "_vectors", lambda part, layers: sizes.append(part.tokens) or plain(part, layers))
    work._encoded(work.examples, np.arange(4))
    assert max(sizes) <= 30
    assert sum(sizes) == work.examples.lengths.sum()


@pytest.mark.parametrize(
    ("over", "why"),
    [
        ({"kind": "sparse"}, "kind = 'sparse' has none to average"),
        ({"kind": "tokens"}, "kind = 'tokens' has none to average"),
        ({"rebuild": {}}, "rebuild writes a text again"),
        ({"discourse": {}}, "discourse learns from sentences"),
        ({"random_span_mask": 2}, "random_span_mask = 2 hides a span"),
    ],
)
def test_where_windows_make_no_sense(over: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=f"truncate = 'chunk': .*{why}.*choose error, right or left"):
        decode(EmbedTraining, {"truncate": "chunk", **over})


def test_every_shape_of_data_is_learned(loaded: LoadedModel, pairs: Any) -> None:
    some = pairs(96, 1)
    left, right = some.columns
    wrong = right[1:] + right[:1]
    mixed = [r if i % 2 else w for i, (r, w) in enumerate(zip(right, wrong, strict=True))]
    alike = np.array([float(i % 2) for i in range(96)], np.float32)
    teacher = np.tile(np.array([[2.0, -1.0]], np.float32), (96, 1))
    classes = np.arange(96, dtype=np.int64) % 5
    topic = [f"a{c} b{c + 7} a{(i * 3) % 40}" for i, c in enumerate(classes)]
    for data, name in (
        (EmbeddingExamples((left, right, wrong)), "ndcg"),
        (EmbeddingExamples((left, right, wrong), "scores", teacher), "ndcg"),
        (EmbeddingExamples((left, mixed), "score", alike), "spearman"),
        (EmbeddingExamples((left, mixed), "score", alike * 0.8 + 0.1), "spearman"),
        (EmbeddingExamples((topic,), "label", classes), "neighbour"),
    ):
        work = job(loaded, data, data)
        losses = run(work, 40)
        assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5]), work.loss
        assert next(iter(work.score(100_000))) == name


def test_raw_sentences_stand_beside_themselves(loaded: LoadedModel, pairs: Any) -> None:
    raw = EmbeddingExamples((pairs(64, 1).columns[0],))
    work = job(loaded, raw, pairs(20, 2), dropout=0.3)
    micro = work.batches(0, 0.0, 0, None).micro_batches[0].batch
    assert micro.extra["texts"].shape == (2, 16)
    assert torch.equal(micro.extra["texts"][0], micro.extra["texts"][1])
    torch.manual_seed(0)
    columns = work._vectors(micro, [])[micro.extra["place"]].view(2, 16, -1)
    assert not torch.allclose(columns[0], columns[1]), "dropout tells the copies apart"
    assert "ndcg" in work.score(100_000), "a labelled file may be held out all the same"
    assert job(loaded, raw, raw).score(1000) == {}
    hidden = job(loaded, raw, hide=2).batches(0, 0.0, 0, None).micro_batches[0].batch
    mask = loaded.tokenizer.mask_id
    ends = hidden.cu_seqlens.tolist()
    shown = [mask in hidden.ids[ends[at] : ends[at + 1]] for at in hidden.extra["place"].tolist()]
    assert not any(shown[:16])
    assert all(shown[16:])


def test_a_large_batch_in_pieces_has_the_gradient_of_one_pass(loaded: LoadedModel, pairs: Any) -> None:
    grads = []
    for tokens in (100_000, 60):
        work = job(loaded, pairs(40, 1), batch=40, train={"micro_batch_tokens": tokens})
        step = work.batches(0, 0.0, 0, None)
        assert len(step.micro_batches) == 1, "examples that are compared stay together"
        forward_backward(
            Plain().build(work, DistributedContext(), torch.device("cpu")), step, DistributedContext(), "fp32", 0, 0
        )
        grads.append([p.grad for p in work.model.encoder.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_examples_that_stand_alone_are_dealt_to_micro_batches(loaded: LoadedModel, pairs: Any) -> None:
    left, right = pairs(40, 1).columns
    data = EmbeddingExamples((left, right, right[1:] + right[:1]))
    work = job(loaded, data, loss=encode(Triplet()), batch=40, train={"micro_batch_tokens": 200})
    assert len(work.batches(0, 0.0, 0, None).micro_batches) > 2


def test_prompts_go_before_the_texts_of_their_side(loaded: LoadedModel, pairs: Any) -> None:
    embed = encode(DenseSettings(prompts=PROMPTS))
    for over, first, second in (
        ({}, "a", "b"),
        ({"roles": {"document": "other"}}, "a", "c"),
        ({"roles": {"query": "other"}}, "c", "b"),
    ):
        work = job(loaded, pairs(20, 1), encoder=embed, **over)
        texts = [loaded.tokenizer.decode(work.examples.sequence(int(n))) for n in work.numbers[0]]
        assert [text.split()[0] for text in texts] == [first, second]
    with pytest.raises(SettingsError, match="'answer' is no side"):
        job(loaded, pairs(20, 1), sides={"answer": "other"})


@pytest.mark.parametrize("pooling", ["mean", "attention", "latent_attention"])
def test_what_was_trained_is_what_is_loaded(loaded: LoadedModel, pairs: Any, tmp_path: Path, pooling: str) -> None:
    finish = [{"is": "whiten", "keep": 8}, {"is": "normalise"}]
    embed = {"pooling": {"is": pooling}, "postprocess": finish, "prompts": PROMPTS}
    work = job(loaded, pairs(64, 1), encoder=embed, dropout=0.1)
    run(work, 6)
    work.save(tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    assert again.model.settings == loaded.model.settings, "the dropout of training stays behind"
    embedder = DenseEncoder.from_loaded(again)
    assert embedder.dimension == 8
    vectors = embedder.encode(["a1 a2"], prompt="query").vectors
    np.testing.assert_allclose(np.linalg.norm(vectors), 1, atol=1e-5)
    batch, place = work.examples.batch(work.numbers[:4, 0])
    work.module.eval()
    with torch.no_grad():
        pooled = work._vectors(batch, [])[place, 0].numpy()
    expected = work._finishing().apply(pooled)
    texts = [work.examples.texts[int(n)] for n in work.numbers[:4, 0]]
    np.testing.assert_allclose(embedder.encode(texts, prompt="query").vectors, expected, atol=1e-5)
    assert again.artifact is not None
    assert again.artifact.manifest.parents["model"]["fingerprint"] == loaded.artifact.manifest.fingerprint


FIRST = {"whiten_before_training": True, "encoder": {"postprocess": [{"is": "whiten", "power": 1.0}, "normalise"]}}


def test_a_finish_that_was_fitted_first_is_trained_through_and_stays(
    loaded: LoadedModel, pairs: Any, tmp_path: Path
) -> None:
    work, plain = job(loaded, pairs(200, 1), pairs(60, 2), **FIRST), job(loaded, pairs(200, 1), pairs(60, 2))
    assert work.through is not None
    fitted = {name: buffer.clone() for name, buffer in work.through.named_buffers()}
    vectors = torch.from_numpy(work._sampled())
    whole = work.through.postprocessing().apply(vectors.numpy())
    through = torch.nn.functional.normalize(work.through(vectors), dim=1)
    np.testing.assert_allclose(through.numpy(), whole, atol=1e-4)
    spread = work.through(vectors).var(0)
    assert spread.max() < 1.05, "evened out"
    assert work.through(vectors).mean(0).abs().max() < 1e-3, "without what all share"
    before = work.score(100_000)["ndcg"]
    losses, usual = run(work, 60), run(plain, 60)
    assert losses[0] != usual[0], "the loss sees finished vectors"
    assert work.score(100_000)["ndcg"] > before + 0.2
    for name, buffer in work.through.named_buffers():
        assert torch.equal(buffer, fitted[name]), "nothing of it learns"
    work.save(tmp_path / "model", {})
    embedder = DenseEncoder.from_loaded(load_model(tmp_path / "model"))
    assert work.dev is not None
    pool = work.dev[1]
    told = work.compared(pool, np.arange(20))
    assert isinstance(told, EncodedVectors)
    np.testing.assert_allclose(embedder.encode(pool.texts[:20]).vectors, told.vectors, atol=1e-4)


def test_a_resumed_run_keeps_the_finish_that_was_fitted_at_its_start(loaded: LoadedModel, pairs: Any) -> None:
    work = job(loaded, pairs(64, 1), **FIRST)
    run(work, 4)
    again = job(loaded, pairs(64, 7), **FIRST)
    assert not torch.equal(again.through.weight, work.through.weight)
    again.module.load_state_dict(work.module.state_dict())
    for mine, theirs in zip(again.through.postprocessing().states, work.through.postprocessing().states, strict=True):
        for name in theirs:
            np.testing.assert_array_equal(mine[name], theirs[name])
    vectors = torch.randn(5, again.through.weight.shape[0])
    assert torch.equal(again.through(vectors), work.through(vectors))
    assert "whiten_before_training" not in job(loaded, pairs(64, 1)).identity()
    assert work.identity()["whiten_before_training"] is True


def test_what_can_be_fitted_first(loaded: LoadedModel, pairs: Any) -> None:
    for over, told in (
        ({"encoder": {"postprocess": ["normalise"]}}, "none of the finish steps learns"),
        ({"encoder": {"postprocess": ["normalise", "whiten"]}}, "'normalise': is not linear"),
        ({"kind": "sparse", "encoder": {"postprocess": ["whiten"]}}, "one vector a text"),
    ):
        with pytest.raises(SettingsError, match=told):
            job(loaded, pairs(16, 1), **{"whiten_before_training": True, **over})
    cut = {"postprocess": [{"is": "truncate", "keep": 12}, {"is": "whiten", "keep": 8}, "normalise"]}
    assert job(loaded, pairs(64, 1), whiten_before_training=True, encoder=cut).through.weight.shape[1] == 8


def test_weights_of_a_pooling_are_never_made_up(loaded: LoadedModel) -> None:
    for embed, told in (
        ({"pooling": "attention"}, "has weights"),
        ({"postprocess": ["whiten"]}, "learns from a sample"),
    ):
        with pytest.raises(SettingsError, match=told):
            DenseEncoder(loaded.model, loaded.tokenizer, decode(DenseSettings, embed))


def test_an_altered_embedding_is_refused(loaded: LoadedModel, pairs: Any, tmp_path: Path) -> None:
    work = job(loaded, pairs(32, 1), encoder={"pooling": "attention"})
    run(work, 3, lr=0.1)
    work.save(tmp_path / "model", {})
    manifest = tmp_path / "model" / "manifest.json"
    table = json.loads(manifest.read_text())
    table["settings"]["dense"]["pooling"] = {"is": "mean", "include_special_tokens": False}
    manifest.write_text(json.dumps(table))
    with pytest.raises((ArtifactError, RuntimeError)):
        DenseEncoder.from_loaded(load_model(tmp_path / "model", verify=False))


def test_training_goes_on_from_trained_pooling(loaded: LoadedModel, pairs: Any, tmp_path: Path) -> None:
    embed = {"pooling": "attention"}
    work = job(loaded, pairs(32, 1), encoder=embed)
    run(work, 3, lr=0.05)
    work.save(tmp_path / "model", {})
    further = job(load_model(tmp_path / "model"), pairs(32, 1), encoder=embed)
    for one, other in zip(work.pooling.parameters(), further.pooling.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_fewer_layers_in_use_are_those_that_were_trained(loaded: LoadedModel, pairs: Any) -> None:
    loss = {"is": "matryoshka_layers", "loss": {"is": "matryoshka", "loss": {"is": "infonce"}, "dims": [8]}}
    work = job(loaded, pairs(64, 1), loss=loss)
    micro = work.batches(0, 0.0, 0, None).micro_batches[0].batch
    assert micro.extra["layers"].tolist() == [1]
    work.module.eval()
    with torch.no_grad():
        early = work._vectors(micro, [1])[:, 1]
        cut = DenseEncoder(work.model, loaded.tokenizer, DenseSettings(layers=1), CPU)
        torch.testing.assert_close(cut.pool_batch(micro), early)
    assert len(first_layers(work.model, 1).encoder.blocks) == 1
    assert len(work.model.encoder.blocks) == 2
    work.module.train()
    losses = run(work, 10)
    assert losses[-1] < losses[0]
    with pytest.raises(SettingsError, match="layers = 3: the model has 2"):
        first_layers(work.model, 3)
    with pytest.raises(SettingsError, match="joins several"):
        job(loaded, pairs(20, 1), loss=loss, encoder={"pooling": "layers"})


def test_a_guide_is_asked_about_every_text(loaded: LoadedModel, pairs: Any) -> None:
    data = pairs(32, 1)
    work = job(loaded, data, loss={"is": "gist"}, guide=str(loaded.path))
    micro = work.batches(0, 0.0, 0, None).micro_batches[0].batch
    assert micro.extra["guide"].shape == (2, 16, loaded.model.settings.width)
    texts = [work.examples.texts[int(n)] for n in work.numbers[:, 0]]
    expected = DenseEncoder.from_loaded(loaded).encode(texts[:3]).vectors
    assert work.guide is not None
    np.testing.assert_allclose(work.guide[work.numbers[:3, 0]], expected, atol=2e-3)
    assert run(work, 5)[-1] > 0
    with pytest.raises(SettingsError, match="asks a guide"):
        job(loaded, data, loss={"is": "gist"})


def test_state_and_batches_repeat(loaded: LoadedModel, pairs: Any) -> None:
    one, other = (job(loaded, pairs(50, 1), dropout=0.1) for _ in range(2))
    run(one, 3)
    other.load_state(one.state())
    first, second = (work.batches(3, 0.0, 0, None).micro_batches[0].batch for work in (one, other))
    assert torch.equal(first.ids, second.ids)
    assert one.identity() == other.identity()
    assert one.identity() != job(loaded, pairs(50, 2), dropout=0.1).identity()


def test_data_is_fitted_to_the_loss(pairs: Any) -> None:
    some = pairs(6, 1)
    scored = EmbeddingExamples(some.columns, "score", np.array([0, 5, 1, 4, 2, 5], np.float32))
    assert len(prepare_for_loss(scored, InfoNCE())) == 3, "pairs above the middle score"
    with pytest.raises(EmptyInput, match="all scores are equal"):
        prepare_for_loss(EmbeddingExamples(some.columns, "score", np.ones(6, np.float32)), InfoNCE())
    with pytest.raises(SettingsError, match="learns from a score for each pair, the data has texts alone"):
        prepare_for_loss(some, default_loss(scored))
    with pytest.raises(SettingsError, match="needs 3 texts an example, a negative is missing"):
        prepare_for_loss(some, Triplet())
    assert scored.take(np.array([1, 0])).columns[0] == [some.columns[0][1], some.columns[0][0]]


def test_wrong_answers_become_columns() -> None:
    rows = [["a", "b", "c"], ["d"], ["e", "f"]]
    partners = ["x", "y", "z"]
    assert negative_columns(rows, None, partners) == (["a", "d", "e"],)
    assert negative_columns(rows, 2, partners)[0] == ["a", "d", "e"]
    second = negative_columns(rows, 2, partners)[1]
    assert (second[0], second[2]) == ("b", "f")
    assert second[1] in ("x", "z"), "another row's partner"
    assert all(a != b for a, b in zip(negative_columns([[]] * 3, None, partners)[0], partners, strict=True))


def test_what_the_recipe_leaves_open() -> None:
    assert default_epochs(100) == 10
    assert default_epochs(10_000) == 2
    assert default_epochs(1_000_000) == 1
    assert default_optimizer(768).lr == 3e-5
    assert default_optimizer(128).lr == pytest.approx(4.4e-4)
    assert default_optimizer(768, light=True).lr == pytest.approx(3e-4)


def test_the_usual_batch_leaves_steps_where_others_are_no_wrong_answers() -> None:
    assert [default_batch_size(CoSENT(), rows, 3) for rows in (100, 300, 600, 1200, 10**6)] == [8, 8, 16, 32, 64]
    assert default_batch_size(CoSENT(), 300, 20) == 32
    assert default_batch_size(Matryoshka(loss=CoSENT()), 300, 3) == 8, "it reads what the loss within reads"
    assert default_batch_size(InfoNCE(), 100, 1) == default_batch_size(None, 100, 1) == 64
    assert EmbedTraining(loss=CoSENT(), epochs=3).batch_size_for(300) == 8
    assert EmbedTraining(loss=CoSENT(), batch=5).batch_size_for(300) == 5
    with pytest.raises(SettingsError, match="batch = 0"):
        EmbedTraining(batch=0)


@pytest.mark.parametrize(("name", "folds"), [("lora", True), ("adapters", False)])
def test_a_small_part_of_the_model_may_learn(
    name: str, folds: bool, loaded: LoadedModel, pairs: Any, tmp_path: Path
) -> None:
    work = job(loaded, pairs(64, 1), pairs(30, 2), adapt={"is": name})
    assert sum(p.numel() for p in work.module.parameters() if p.requires_grad) < 0.5 * sum(
        p.numel() for p in work.module.parameters()
    )
    losses = run(work, 15, lr=1e-2)
    assert losses[-1] < losses[0]
    work.save(tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    assert (again.model.settings == loaded.model.settings) is folds
    batch, place = work.examples.batch(work.numbers[:4, 0])
    work.module.eval()
    with torch.no_grad():
        expected = torch.nn.functional.normalize(work._vectors(batch, [])[place, 0], dim=1).numpy()
    texts = [work.examples.texts[int(n)] for n in work.numbers[:4, 0]]
    np.testing.assert_allclose(DenseEncoder.from_loaded(again, "cpu").encode(texts).vectors, expected, atol=2e-5)
