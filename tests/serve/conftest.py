"""Small random models with a head of each kind, and a server on loopback with all of them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tokenizers
import torch

from encodery.base.settings import encode
from encodery.encoders.settings import DenseSettings
from encodery.encoders.sparse import SparseSettings
from encodery.finetune.artifact import save
from encodery.finetune.fine_tuned import FineTuned
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks import Task
from encodery.finetune.tasks.classify import TextClassification
from encodery.finetune.tasks.rank import PassageRanking
from encodery.finetune.tasks.span import ExtractiveQA
from encodery.finetune.tasks.tag import SequenceTagging
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.serve.backend import LocalBackend
from encodery.serve.engine import EngineSettings, ServingEngine
from encodery.serve.models import ModelRegistry, ServeSettings, open_models
from encodery.serve.server_metrics import ServerMetrics
from encodery.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    import httpx

    from encodery.serve.http import HttpSettings

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LONGEST = 32
KNOWN: dict[str, tuple[Task, TaskMetadata]] = {
    "ranker": (PassageRanking(), TaskMetadata(low=0.0, high=1.0)),
    "classes": (TextClassification(), TaskMetadata(labels=("no", "yes"), counts=(1, 1))),
    "tags": (SequenceTagging(overlap=4), TaskMetadata(labels=("O", "B-a", "I-a"), counts=(1, 1, 1))),
    "spans": (ExtractiveQA(), TaskMetadata()),
}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model with one token per word, w0 … w99; it reads 30 words."""
    pieces = [*SPECIALS, *(f"w{i}" for i in range(100))]
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(SPECIALS)
    made = Tokenizer(inner)
    made.set_template()
    folder = tmp_path_factory.mktemp("serve")
    made.save(folder / "tokenizer")
    settings = ModelSettings(
        width=32, depth=2, heads=2, vocab_size=made.vocab_size, max_length=LONGEST, type_vocab_size=2
    )
    recipe = {"settings": {"loss": {"is": "matryoshka", "loss": "infonce", "dims": [8, 16]}}}
    stored = {"dense": encode(DenseSettings(prompts={"query": "w1 "})), "recipe": recipe}
    save_model(folder / "words", build_model(settings, seed=0), folder / "tokenizer", settings=stored)
    return load_model(folder / "words")


@pytest.fixture(scope="session")
def folders(base: LoadedModel) -> dict[str, Path]:
    """Name -> model folder."""
    root = base.path.parent
    result = {"words": base.path, "sparse": root / "sparse"}
    save_model(result["sparse"], base.model, root / "tokenizer", settings={"sparse": encode(SparseSettings())})
    for seed, (name, (task, known)) in enumerate(KNOWN.items()):
        torch.manual_seed(seed)
        module = task.build(base.model.settings.shape, known).eval()
        tuned = FineTuned(task, module, known, {}, LONGEST, task.truncate)
        save(root / name, base.model, tuned, base, {}, {})
        result[name] = root / name
    return result


@pytest.fixture(scope="session")
def served(folders: dict[str, Path]) -> ModelRegistry:
    """All models, opened."""
    return open_models(ServeSettings(tuple(f"{name}={path}" for name, path in folders.items())))


class Running:
    """A server in its own thread."""

    def __init__(
        self, served: ModelRegistry, engine: EngineSettings, http: HttpSettings | None, served_models: dict[str, Any]
    ) -> None:
        import uvicorn

        from encodery.serve.app import make_app
        from encodery.serve.http import HttpSettings
        from encodery.serve.worker import uvicorn_config

        self.gauges = ServerMetrics()
        self.engine = ServingEngine({**served.models, **served_models}, engine, self.gauges.record)
        local = LocalBackend(self.engine, served.models_info, served.health_probes)
        self.app = make_app(local, http, self.gauges, engine.request_inputs, self.engine.overload_error)
        self.server = uvicorn.Server(uvicorn_config(self.app, http or HttpSettings()))
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def client(self, **options: Any) -> httpx.Client:
        import httpx

        # With limits, httpcore closes idle connections that it has already assigned to a request of another thread,
        # which then waits until its timeout (github.com/encode/httpcore/issues/1110).
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None)
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, limits=limits, **options)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.engine.close()
        self.socket.close()


def run(
    served: ModelRegistry, engine: EngineSettings | None = None, http: HttpSettings | None = None, **served_models: Any
) -> Running:
    """`served_models` by endpoint, with "__" for "/". No request is refused for waiting unless the test sets a limit,
    since the wait depends on the machine."""
    others = {name.replace("__", "/"): served_model for name, served_model in served_models.items()}
    return Running(served, engine or EngineSettings(queue_seconds=600.0), http, others)


@pytest.fixture(scope="session")
def start() -> Any:
    """`run`, for a test that needs its own server."""
    return run


@pytest.fixture(scope="session")
def running(served: ModelRegistry) -> Iterator[Running]:
    from encodery.serve.http import HttpSettings

    result = run(served, http=HttpSettings(token_ids=True))
    yield result
    result.stop()


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with running.client() as result:
        yield result
