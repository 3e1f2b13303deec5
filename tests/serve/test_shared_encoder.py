"""Several heads on one pass of a shared encoder: the number of passes, and that each head gives what it gives alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from encodery.encoders.dense import DenseEncoder
from encodery.finetune.predict import Predictor
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.network import build_model
from encodery.model.shape import Batch
from encodery.serve.engine import EngineSettings, ServingEngine
from encodery.serve.models import ModelRegistry, ServeSettings, open_models
from encodery.serve.served_model import InferenceRequest
from encodery.serve.shared_encoder import SharedEncoderGroup, merge_batches

TEXTS = ["w1 w2 w3", "w4 w5", "w6 w7 w8 w9 w10"]


@pytest.fixture
def several(folders: dict[str, Path]) -> ModelRegistry:
    names = ("words", "classes", "tags", "ranker", "sparse")
    return open_models(ServeSettings(tuple(f"{name}={folders[name]}" for name in names)))


@pytest.fixture
def passes(several: ModelRegistry) -> Iterator[list[int]]:
    """Tokens of each pass of the encoder."""
    group = several.models["words/embed"].batch_group
    assert isinstance(group, SharedEncoderGroup)
    seen: list[int] = []
    with group.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].tokens)):
        yield seen


def test_equal_encoders_are_shared_and_others_are_not(
    several: ModelRegistry, base: LoadedModel, tmp_path: Path
) -> None:
    served_models: dict[str, Any] = several.models
    heads = [served_models[name] for name in ("words/embed", "words/states", "classes/predict", "tags/predict")]
    assert len({id(lane.batch_group) for lane in heads}) == len({id(lane.model.encoder) for lane in heads}) == 1
    assert served_models["sparse/sparse"].batch_group is served_models["words/tokenize"].batch_group is None
    assert set(several.cost_probes) == {"words/embed", "sparse/sparse"}
    other = save_model(tmp_path / "other", build_model(base.model.settings, seed=1), base.path.parent / "tokenizer")
    apart = open_models(ServeSettings((f"words={base.path}", f"other={other.path}"))).models
    assert apart["words/embed"].batch_group is not apart["other/embed"].batch_group


def test_requests_to_several_heads_take_one_pass(
    several: ModelRegistry, passes: list[int], folders: dict[str, Path], base: LoadedModel
) -> None:
    group = several.models["words/embed"].batch_group
    assert isinstance(group, SharedEncoderGroup)
    inside, gate = threading.Event(), threading.Event()

    def hold(*_: Any) -> None:
        inside.set()
        assert gate.wait(20)

    requests = [
        InferenceRequest("words", "embed", {"texts": TEXTS}),
        InferenceRequest("classes", "predict", {"rows": {"text": TEXTS}}),
        InferenceRequest("tags", "predict", {"rows": {"text": TEXTS}}),
        InferenceRequest("ranker", "predict", {"rows": {"query": ["w1"], "text": ["w2 w3"]}}),
        InferenceRequest("words", "states", {"texts": TEXTS[:1]}),
    ]
    with (
        ServingEngine(several.models, EngineSettings(runners=1)) as engine,
        group.encoder.register_forward_pre_hook(hold),
    ):
        first = engine.submit(InferenceRequest("words", "embed", {"texts": ["w1"]}))
        assert inside.wait(20)
        engine.submit(InferenceRequest("words", "embed", {"texts": ["w2"]}))  # The batch that is formed meanwhile.
        while not engine.scheduler.batch_ready:
            time.sleep(0.005)
        tickets = [engine.submit(one) for one in requests]
        while not all(ticket.tokenized for ticket in tickets) or engine.scheduler.waiting_tokens < 3 * 16 + 6 + 5:
            time.sleep(0.005)
        gate.set()
        answers = [ticket.future.result(20) for ticket in tickets]
        assert first.future.result(20)
    assert passes == [3, 3, 16 + 6]  # Each text once, and the pair that only the ranker reads.
    vectors = DenseEncoder.from_loaded(base).encode(TEXTS).vectors
    assert np.abs(answers[0].arrays["vectors"] - vectors).max() < 1e-5
    for name, answer in (("classes", answers[1]), ("tags", answers[2])):
        expected = Predictor.from_model(load_model(folders[name])).predict(TEXTS).answers
        assert [one["prediction"] for one in answer.body["answers"]] == [one["prediction"] for one in expected]
    shares = [one["probabilities"]["yes"] for one in answers[1].body["answers"]]
    alone = Predictor.from_model(load_model(folders["classes"])).predict(TEXTS).answers
    assert shares == pytest.approx([one["probabilities"]["yes"] for one in alone], abs=1e-6)
    score = Predictor.from_model(load_model(folders["ranker"])).score("w1", ["w2 w3"])
    assert answers[3].body["answers"][0]["logit"] == pytest.approx(score[0], abs=1e-5)
    assert np.abs(answers[4].arrays["vectors"].mean(0) / np.linalg.norm(answers[4].arrays["vectors"].mean(0))
                  - vectors[0]).max() < 1e-5  # fmt: skip


def test_sequences_with_other_segments_are_computed_separately() -> None:
    plain = Batch.from_sequences([[1, 2, 3], [4, 5], [1, 2, 3]])
    paired = Batch.from_sequences([[1, 2, 3], [4, 5]], [[0, 0, 1], [0, 0]])
    whole, rows = merge_batches([plain, paired])
    assert whole.segment is not None
    assert whole.cu_seqlens.tolist() == [0, 3, 5, 8]
    assert torch.equal(whole.ids[rows[0]], plain.ids)
    assert torch.equal(whole.segment[rows[1]], torch.tensor([0, 0, 1, 0, 0]))
    assert rows[0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert merge_batches([plain])[0].segment is None
