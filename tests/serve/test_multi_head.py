"""Several heads in one request: each gives what its own route gives, after one pass of the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from encodery.model.load import LoadedModel, save_model
from encodery.model.network import build_model
from encodery.runtimes.native import LIBRARY
from encodery.serve.models import ServeSettings, open_models
from encodery.serve.multi_head import MultiHeadModel
from encodery.serve.shared_encoder import EncoderHead

TEXTS = ["w1 w2 w3", "w4 w5", "w1 w2 w3", "w6 w7 w8 w9 w10"]
HEADS: dict[str, dict[str, Any]] = {
    "vector": {"route": "embed"},
    "short": {"route": "embed", "model": "words", "dimensions": 8, "normalize": False},
    "states": {"route": "embed_all"},
    "class": {"route": "predict", "model": "classes"},
    "names": {"route": "tag", "model": "tags"},
}


def post(client: httpx.Client, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def alone(client: httpx.Client, head: dict[str, Any], texts: list[str], **more: Any) -> Any:
    """The answer of the head's own route."""
    arguments = {name: value for name, value in head.items() if name != "route"}
    inputs: Any = [[text] for text in texts] if head["route"] == "predict" else texts
    return post(client, f"/{head['route']}", inputs=inputs, **arguments, **more)


def near(one: Any, other: Any) -> bool:
    """Equal, except that numbers may differ by 1e-6."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(near, one, other))
    return abs(one - other) <= 1e-6 if isinstance(one, float) else bool(one == other)


def test_each_head_gives_what_its_route_gives(client: httpx.Client) -> None:
    result = post(client, "/v1/heads", input=TEXTS, heads=HEADS)
    assert list(result["heads"]) == list(HEADS)
    assert result["models"] == {"vector": "words", "short": "words", "states": "words", "class": "classes",
                               "names": "tags"}  # fmt: skip
    for name, head in HEADS.items():
        assert near(result["heads"][name], alone(client, head, TEXTS)), name
    assert len(result["heads"]["short"][0]) == 8
    single = post(client, "/v1/heads", input=TEXTS[0], heads={"class": HEADS["class"]})
    assert near(single["heads"]["class"], result["heads"]["class"][:1])


def test_one_pass_serves_all_heads(served: Any, client: httpx.Client, running: Any) -> None:
    heads_model = served.models["words/heads"]
    assert isinstance(heads_model, MultiHeadModel)
    assert {"words/embed", "words/states", "classes/predict", "tags/predict", "ranker/predict"} <= set(
        heads_model.heads
    )
    passes: list[int] = []
    with heads_model.model.encoder.register_forward_pre_hook(lambda _, arguments: passes.append(arguments[0].tokens)):
        result = post(client, "/v1/heads", input=TEXTS, heads=HEADS)
        assert passes == [5 + 4 + 7]  # Each text once, although five heads need it and one text occurs twice.
        assert (result["encoders"], result["usage"]["total_tokens"]) == (1, 16)
        passes.clear()
        for head in HEADS.values():
            alone(client, head, TEXTS)
        assert len(passes) == len(HEADS)
    facts = {one["id"]: one.get("encoder") for one in client.get("/info").json()["models"]}
    assert facts["words"] == {"embed": "words", "states": "words"}
    assert facts["tags"] == {"predict": "words"}


def test_each_head_truncates_long_texts_as_its_route_does(client: httpx.Client) -> None:
    long = " ".join(f"w{number}" for number in range(70))
    for truncate in ("chunk", "right"):
        result = post(client, "/v1/heads", input=[long, "w1"], heads=HEADS, truncate=truncate)
        for name, head in HEADS.items():
            assert near(result["heads"][name], alone(client, head, [long, "w1"], truncate=truncate)), name
    rejected = client.post("/v1/heads", json={"input": [long], "heads": HEADS})
    error = rejected.json()["error"]
    assert (rejected.status_code, error["code"], error["param"]) == (400, "input_too_long", "heads.vector")


def test_invalid_heads_are_refused(client: httpx.Client) -> None:
    for heads, status, code in (
        ({}, 400, "invalid_parameter"),
        ({"a": {"route": "fill"}}, 400, "invalid_parameter"),
        ({"a": {"route": "embed", "inputs": "x"}}, 400, "unknown_parameter"),
        ({"a": {"route": "embed", "model": "tags"}}, 400, "unsupported_task"),
        ({"a": {"route": "embed", "model": "nothing"}}, 404, "model_not_found"),
        ({"a": {"route": "embed", "dimensions": 7}}, 400, "invalid_dimensions"),
        ({"a": {"route": "tag", "model": "tags", "types": ["x"]}}, 400, "invalid_parameter"),
    ):
        response = client.post("/v1/heads", json={"input": ["w1"], "heads": heads})
        assert (response.status_code, response.json()["error"]["code"]) == (status, code), heads
    response = client.post("/v1/heads", json={"input": [""], "heads": HEADS})
    assert response.json()["error"]["code"] == "empty_input"
    assert "/v1/heads" in client.get("/openapi.json").json()["paths"]


@pytest.fixture
def apart(base: LoadedModel, folders: dict[str, Path], tmp_path: Path, start: Any) -> Iterator[httpx.Client]:
    """A server of two models with different encoders."""
    other = save_model(tmp_path / "other", build_model(base.model.settings, seed=1), base.path.parent / "tokenizer")
    running = start(open_models(ServeSettings((f"other={other.path}", f"classes={folders['classes']}"))))
    with running.client() as client:
        yield client
    running.stop()


def test_heads_on_other_encoders_are_computed_too(apart: httpx.Client) -> None:
    heads: dict[str, dict[str, Any]] = {"class": {"route": "predict"}, "vector": {"route": "embed"}}
    result = post(apart, "/v1/heads", input=TEXTS, heads=heads)
    assert (result["encoders"], result["usage"]["total_tokens"]) == (2, 32)
    for name, head in heads.items():
        assert near(result["heads"][name], alone(apart, head, TEXTS)), name
    heads["vector"]["dimensions"] = 3
    response = apart.post("/v1/heads", json={"input": ["w1"], "heads": heads})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "heads.vector")


@pytest.mark.skipif(not LIBRARY.is_file(), reason="the packed int8 engine was not compiled at install")
def test_with_8_bits_they_are_equal_to_the_bit(base: LoadedModel, start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served = open_models(ServeSettings((f"words={base.path}",), runtime="packed_int8", threads=2))
    running = start(served)
    served_model = served.models["words/heads"]
    assert isinstance(served_model, EncoderHead)
    passes: list[int] = []
    engine: Any = type(served_model.encoder)
    hidden = engine.hidden_states

    def counted(self: Any, batch: Any) -> np.ndarray:
        passes.append(len(batch.ids))
        result: np.ndarray = hidden(self, batch)
        return result

    monkeypatch.setattr(engine, "hidden_states", counted)
    texts = [" ".join(f"w{(row * 7 + place) % 100}" for place in range(1 + row % 28)) for row in range(64)]
    plain = {"route": "embed", "normalize": False}
    heads: dict[str, Any] = {"vector": {"route": "embed"}, "plain": plain, "all": {"route": "embed_all"}}
    try:
        with running.client() as client:
            result = post(client, "/v1/heads", input=texts[:8], heads=heads)
            assert len(passes) == 1
            result = post(client, "/v1/heads", input=texts, heads=heads)
            for name, head in heads.items():
                assert result["heads"][name] == alone(client, head, texts), name
    finally:
        running.stop()
