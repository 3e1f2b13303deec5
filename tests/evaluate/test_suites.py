"""Figures of the suites against scikit-learn and against slow, plain computations."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch

from encodery.base.errors import EmptyInput, InputError, UnknownName
from encodery.evaluate.compare import measure
from encodery.evaluate.counters import Counters
from encodery.evaluate.plan import parse_system, parse_task
from encodery.evaluate.pseudo_likelihood import pseudo_log_likelihoods
from encodery.evaluate.suites._rows import read_split
from encodery.evaluate.suites.classification import ClassificationSuite, macro_f1
from encodery.evaluate.suites.cloze import ClozeQuestions, ClozeSuite
from encodery.evaluate.suites.clustering import v_measure
from encodery.evaluate.suites.minimal_pairs import MinimalPairsSuite
from encodery.evaluate.suites.pair import average_precision, best_f1
from encodery.evaluate.suites.retrieval import RetrievalSuite
from encodery.evaluate.suites.sts import STSSuite
from encodery.evaluate.systems import OpenSystem, Role, Vectors
from encodery.evaluate.systems.bm25 import BM25System
from encodery.evaluate.systems.model import ModelSystem
from encodery.model.load import LoadedModel, load_model
from encodery.model.shape import Batch


class Fixed(OpenSystem):
    """Texts as vectors that were agreed on."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        super().__init__("fixed")
        self.vectors = vectors

    def encode(self, texts: list[str], role: Role | None = None) -> Vectors:
        return np.array([self.vectors[text] for text in texts], np.float32)


@pytest.fixture(scope="module")
def loaded(run: Path) -> LoadedModel:
    return load_model(run)


def test_figures_equal_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.integers(0, 2, 50).astype(bool)
        scores = rng.integers(0, 12, 50).astype(float) + truth
        assert average_precision(truth, scores) == pytest.approx(sklearn.metrics.average_precision_score(truth, scores))
        best = max(sklearn.metrics.f1_score(truth, scores >= at) for at in np.unique(scores))
        assert best_f1(truth, scores) == pytest.approx(best)
        labels, clusters = rng.integers(0, 4, 40), rng.integers(0, 3, (40, 2))
        theirs = np.mean([sklearn.metrics.v_measure_score(labels, column) for column in clusters.T])
        assert v_measure(labels, clusters) == pytest.approx(theirs)
        names, guesses = np.array(list("abcd"))[labels], np.array(list("bcde"))[rng.integers(0, 4, (40, 2))]
        theirs = np.mean(
            [sklearn.metrics.f1_score(names, column, average="macro", zero_division=0) for column in guesses.T]
        )
        assert macro_f1(names, guesses) == pytest.approx(theirs)


def test_bm25_is_lucenes_formula() -> None:
    documents = ["the cat sat", "a cat and a cat and a dog", "dogs", "the river bends by the hill in the north"]
    bm25 = BM25System(stop_words=False).open()
    bm25.fit(documents)
    scores = (bm25.encode(["cat the unknown cat"], "query") @ bm25.encode(documents, "document").T).toarray()[0]
    words = [text.split() for text in documents]
    mean = sum(map(len, words)) / len(words)
    for text, score in zip(words, scores, strict=True):
        expected = 0.0
        for word in ["cat", "the", "unknown", "cat"]:
            holders = sum(word in other for other in words)
            idf = math.log(1 + (len(words) - holders + 0.5) / (holders + 0.5))
            count = text.count(word)
            expected += idf * count / (count + 1.2 * (1 - 0.75 + 0.75 * len(text) / mean))
        assert score == pytest.approx(expected)


def collection(folder: Path, documents: dict[str, str], queries: dict[str, str], grades: str) -> Path:
    with gzip.open(folder / "corpus.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"_id": key, "text": text}) + "\n" for key, text in documents.items())
    text = "".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in queries.items())
    (folder / "queries.jsonl").write_text(text)
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + grades)
    return folder


def test_retrieval_by_hand(tmp_path: Path) -> None:
    documents = {"d1": "one", "d2": "two", "d3": "three"}
    grades = "q1\td1\t2\nq1\td3\t1\nq2\td2\t1\nq2\tgone\t1\nq3\td1\t0\n"
    data = collection(tmp_path, documents, {"q1": "first", "q2": "second", "q3": "none"}, grades)
    vectors = {"one": [1, 0], "two": [0, 5], "three": [1, 1], "first": [3, 1], "second": [1, 0.9]}
    suite = RetrievalSuite(k=2, depth=2, runs=str(tmp_path / "runs"))
    items = suite.read(data)
    assert len(items) == 2, "a query without a relevant document has no figure"
    metrics = measure(suite, items, Fixed({key: list(map(float, row)) for key, row in vectors.items()}), "x").metrics
    # first: d1 (cosine .95) then d3 (.89); second: d3, then d1
    second = 1 / math.log2(3)
    assert metrics["ndcg@2"].per_item == pytest.approx([1.0, 0.0])
    assert metrics["mrr@2"].value == pytest.approx(0.5)
    assert metrics["map@2"].value == pytest.approx(0.5)
    assert metrics["relevant, not in the corpus"].value == 1
    dotted = RetrievalSuite(k=2, depth=2, similarity="dot")
    by_dot = measure(dotted, items, Fixed({key: list(map(float, row)) for key, row in vectors.items()}), "x").metrics
    # first: two has 5, three has 4, one has 3; second: two first
    assert by_dot["ndcg@2"].per_item == pytest.approx([second / (2 + second), 1 / (1 + second)])
    lines = (tmp_path / "runs" / "fixed.run").read_text().splitlines()
    assert [line.split()[:4] for line in lines[:2]] == [["q1", "Q0", "d1", "1"], ["q1", "Q0", "d3", "2"]]


def test_search_in_pieces_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = {f"t{n}": rng.normal(size=8).tolist() for n in range(60)}
    documents = {f"d{n}": f"t{n}" for n in range(50)}
    queries = {f"q{n}": f"t{50 + n}" for n in range(10)}
    data = collection(tmp_path, documents, queries, "".join(f"q{n}\td{n}\t1\n" for n in range(10)))
    suite = RetrievalSuite(k=5, depth=7)
    whole = suite.ranked(suite.read(data), Fixed(vectors))
    assert all(len(row) == 7 for row in whole.values())
    monkeypatch.setattr("encodery.evaluate.suites.retrieval.MAX_SCORES", 100)
    pieces = suite.ranked(suite.read(data), Fixed(vectors))
    assert {q: sorted(row) for q, row in pieces.items()} == {q: sorted(row) for q, row in whole.items()}


def test_collections_name_what_is_wrong_with_them(tmp_path: Path) -> None:
    data = collection(tmp_path, {"d": "x"}, {"q": "x"}, "q\td\t0\n")
    with pytest.raises(EmptyInput, match="no query of 'test' has a relevant document"):
        RetrievalSuite().read(data)
    with pytest.raises(InputError, match=r"no judgements for 'tset'\. Did you mean 'test'"):
        RetrievalSuite(split="tset").read(data)


def test_columns_are_assigned_reported_and_checked(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("word1\tword2\trating\ncat\thé 👋\t1\n\tdog\t2.5\n")
    default = STSSuite().read(tmp_path / "a.tsv")
    assert (default.left, default.right) == (["cat", ""], ["hé 👋", "dog"])
    assert default.scores.tolist() == [1, 2.5]
    assigned = STSSuite(columns={"text_a": "word2", "text_b": "word1"}).read(tmp_path / "a.tsv")
    assert assigned.left == default.right
    with pytest.raises(InputError, match=r"no such column\. Did you mean 'word"):
        STSSuite(columns={"text_a": "word"}).read(tmp_path / "a.tsv")
    (tmp_path / "b.csv").write_text("a,b,score\nx,y,1\nx,y,nan\n")
    with pytest.raises(InputError, match=r"b\.csv, line 3: 'score' is 'nan', a number is needed"):
        STSSuite().read(tmp_path / "b.csv")
    (tmp_path / "c.jsonl").write_text('{"a": "x", "b": null, "score": 1}\n')
    with pytest.raises(InputError, match=r"c\.jsonl, line 1: 'b' is None"):
        STSSuite().read(tmp_path / "c.jsonl")
    (tmp_path / "d.csv").write_text("a,b,score\nx,y,1\nx,z,1\n")
    with pytest.raises(EmptyInput, match="the same rating"):
        STSSuite().read(tmp_path / "d.csv")
    rows = [{"text": "x", "label": "l", "split": "validation"}, {"text": "y", "label": "l", "split": "train"}]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_split(tmp_path / "e.jsonl", "").row(0)["text"] == "x"
    with pytest.raises(InputError, match=r"no split 'trian'\. Did you mean 'train'"):
        read_split(tmp_path / "e.jsonl", "trian")


def test_equal_texts_fall_on_one_side(tmp_path: Path) -> None:
    rows = [{"text": f"text {n % 40}", "label": str(n % 2)} for n in range(200)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = ClassificationSuite().read(tmp_path / "x.jsonl")
    assert not set(items.train.texts) & set(items.test.texts)
    assert 10 <= len(items.test) <= 80
    drawn = ClassificationSuite(max_rows=9).read(tmp_path / "x.jsonl")
    assert len(drawn.train) == len(drawn.test) == 9


def test_few_shots_are_means_over_draws(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = {}
    for n in range(120):
        vectors[f"t{n}"] = (rng.normal(size=4) + np.array([3 * (n % 2), 0, 0, 0])).tolist()
    rows = [{"text": f"t{n}", "label": n % 2, "split": "train" if n < 60 else "test"} for n in range(120)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    few, all_of_them = ClassificationSuite(shots=4, repeats=5), ClassificationSuite()
    items = few.read(tmp_path / "x.jsonl")
    one = measure(few, items, Fixed(vectors), "x").metrics["accuracy"]
    assert one.per_item is not None
    assert set(np.unique(one.per_item * 5)) <= set(range(6))
    full = measure(all_of_them, items, Fixed(vectors), "x").metrics["accuracy"]
    assert 0.6 < one.value <= full.value + 0.05
    assert full.value > 0.85


@pytest.mark.parametrize("whole", [False, True])
def test_pseudo_log_likelihoods_one_mask_at_a_time(loaded: LoadedModel, whole: bool) -> None:
    texts = ["The captain crossed the river.", "", "unwatchable gardens"]
    likelihoods = pseudo_log_likelihoods(loaded, texts, whole, batch_tokens=64)
    assert likelihoods.sums[1] == 0
    tokenizer = loaded.tokenizer
    several = 0
    for number, text in enumerate(texts):
        ids = [tokenizer.cls_id, *tokenizer.encode(text).tolist(), tokenizer.sep_id]
        total = 0.0
        for place in range(1, len(ids) - 1):
            hidden = list(ids)
            hidden[place] = tokenizer.mask_id
            after = place + 1
            while whole and after < len(ids) - 1 and not tokenizer.word_start[ids[after]]:
                hidden[after] = tokenizer.mask_id
                after += 1
                several += 1
            with torch.inference_mode():
                out = loaded.model(Batch.from_sequences([hidden])).hidden[place : place + 1]
                scores = loaded.model.mlm_head(out, loaded.model.encoder).log_softmax(-1)
            total += float(scores[0, ids[place]])
        assert likelihoods.sums[number] == pytest.approx(total, abs=1e-3)
        assert likelihoods.tokens[number] == len(ids) - 2
    assert several > 3 or not whole


def test_a_too_long_sentence_is_refused_not_truncated(loaded: LoadedModel) -> None:
    with pytest.raises(InputError, match=r"Text 1 has \d+ tokens; the model accepts 64"):
        pseudo_log_likelihoods(loaded, ["short", "river " * 100])


def test_minimal_pairs_by_kind_and_ties(run: Path, tmp_path: Path) -> None:
    rows = [{"good": "The river.", "bad": "The river.", "phenomenon": "same"}] * 3
    rows += [{"good": "The river.", "bad": "mountain mountain window", "phenomenon": "other"}] * 2
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = MinimalPairsSuite(max_per_kind=2)
    items = suite.read(tmp_path / "x.jsonl")
    assert items.kinds.tolist() == ["same", "same", "other", "other"]
    result = measure(suite, items, ModelSystem(path=str(run)).open(), "x")
    assert result.metrics["accuracy, same"].value == 0.5
    assert result.metrics["accuracy, other"].value in (0.0, 1.0)
    assert result.counters.tokens > result.counters.texts


def test_cloze_counts_what_a_model_cannot_say(run: Path, loaded: LoadedModel) -> None:
    tokenizer = loaded.tokenizer
    word = next(w for w in ("river", "captain", "window", "garden") if len(tokenizer.encode(f"the {w}.")) == 3)
    items = ClozeQuestions(["the [MASK].", "the [MASK]."], [[word], ["Qwxzy unheard of"]], [[], []])
    opened = ModelSystem(path=str(run)).open()
    metrics = measure(ClozeSuite(), items, opened, "x").metrics
    assert metrics["answer is one token"].value == 0.5
    ids = [tokenizer.cls_id, *tokenizer.encode("the [MASK].", parse_special_tokens=True).tolist(), tokenizer.sep_id]
    place = ids.index(tokenizer.mask_id)
    with torch.inference_mode():
        out = loaded.model(Batch.from_sequences([ids])).hidden[place : place + 1]
        scores = loaded.model.mlm_head(out, loaded.model.encoder)[0, : tokenizer.used_size].clone()
        scores[sorted(tokenizer.special_ids)] = -torch.inf
    rank = 1 + int((scores > scores[tokenizer.encode(f"the {word}.")[1]]).sum())
    assert metrics["mrr"].per_item == pytest.approx([1 / rank, 0.0])


def test_cloze_by_statements_needs_no_single_token(run: Path, tmp_path: Path) -> None:
    answers = ["the old river", "a window", "gardens", "winter morning"]
    rows = [{"prompt": f"{n} is [MASK].", "answer": answers[n % 4], "relation": "is"} for n in range(12)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = ClozeSuite(choice="statements", num_options=3)
    items = suite.read(tmp_path / "x.jsonl")
    assert all(
        len(set(wrong)) == 2 and right[0] not in wrong for right, wrong in zip(items.answers, items.others, strict=True)
    )
    assert items.others == suite.read(tmp_path / "x.jsonl").others
    metrics = measure(suite, items, ModelSystem(path=str(run)).open(), "x").metrics
    assert metrics["chance"].value == pytest.approx(1 / 3)
    (tmp_path / "y.jsonl").write_text('{"prompt": "no gap", "answer": "x"}\n')
    with pytest.raises(InputError, match=r"y\.jsonl, line 1: one \[MASK\] is needed"):
        suite.read(tmp_path / "y.jsonl")


def test_counters_forget_what_a_system_does_not_tell() -> None:
    counters = Counters()
    before = counters.copy()
    counters.add(3, 10, 2, 0)
    assert counters.since(before) == Counters(3, 0.0, 10, 2, 0)
    counters.add(1, None, 0, 0)
    assert counters.tokens is None
    assert counters.since(before).texts == 4


def test_systems_by_name() -> None:
    assert parse_system("runs/first").label == "first"
    assert encode_of(parse_system("bm25,k1=0.9"))["k1"] == 0.9
    assert encode_of(parse_system("http://localhost:1/embed,model=m"))["is"] == "endpoint"
    assert encode_of(parse_system("sentence_transformers:folder/x"))["path"] == "folder/x"
    with pytest.raises(UnknownName, match="retrieval"):
        parse_task("retrievel", Path("x"))


def encode_of(part: object) -> dict[str, object]:
    from encodery.base.settings import encode

    settings: dict[str, object] = encode(part)
    return settings
