"""Tests are stricter than users: warnings are errors, nothing is fetched, caches are private."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from encodery.finetune.task_types import TaskMetadata
    from encodery.finetune.tasks import Task
    from encodery.tokens.tokenizer import Tokenizer

pytest.register_assert_rewrite("encodery.checks")

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture(autouse=True)
def _private_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("ENCODERY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def _poisoned() -> Iterator[None]:
    """Fill uninitialised memory with NaN, so that a value that was never written shows."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="session")
def needs_vnni() -> None:
    """Skip on processors without 8-bit dot products, where ONNX Runtime and OpenVINO add pairs of products in 16 bits
    that overflow: exports are refused there, since their vectors drift."""
    if "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        pytest.skip("this processor has no 8-bit dot products (VNNI)")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def descendants() -> Callable[[int], dict[int, bytes]]:
    """`descendants(pid)`: the children of a process, their children and so on, with their command lines."""

    def read(path: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError:
            return b""  # It has ended meanwhile.

    def descendants_of(pid: int) -> dict[int, bytes]:
        commands: dict[int, bytes] = {}
        for one in map(int, read(f"/proc/{pid}/task/{pid}/children").split()):
            commands |= {one: read(f"/proc/{one}/cmdline"), **descendants_of(one)}
        return commands

    return descendants_of


@pytest.fixture(scope="session")
def word_tokenizer() -> Callable[..., Tokenizer]:
    """`word_tokenizer(words)`: one token a word, cut at spaces and marks, after five special ones; words that begin
    with ## continue others. `lower`: capitals are folded; `at`: cut only at "spaces", or also between "letters"."""
    import tokenizers

    from encodery.tokens.tokenizer import Tokenizer

    def make(words: Sequence[str], lower: bool = False, at: str = "marks") -> Tokenizer:
        pieces = {piece: number for number, piece in enumerate([*SPECIALS, *words])}
        inner = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[UNK]"))
        split = tokenizers.pre_tokenizers
        inner.pre_tokenizer = {
            "marks": split.BertPreTokenizer(),
            "spaces": split.WhitespaceSplit(),
            "letters": split.Sequence([split.Whitespace(), split.Split(tokenizers.Regex("."), "isolated")]),
        }[at]
        if lower:
            inner.normalizer = tokenizers.normalizers.BertNormalizer()
        inner.decoder = tokenizers.decoders.WordPiece()
        inner.add_special_tokens(list(SPECIALS))
        made = Tokenizer(inner)
        made.set_template()
        return made

    return make


@pytest.fixture(scope="session")
def small_model() -> Callable[..., Path]:
    """`small_model(folder, tokenizer, **settings)`: a random model in `folder/model`, with two layers of width 32
    unless set; `kept`: further settings saved with it."""
    from encodery.model.load import save_model
    from encodery.model.network import build_model
    from encodery.model.settings import ModelSettings

    def make(folder: Path, tokenizer: Tokenizer, kept: dict[str, Any] | None = None, **settings: Any) -> Path:
        tokenizer.save(folder / "tokenizer")
        model_settings = ModelSettings(
            **{"width": 32, "depth": 2, "heads": 2, "vocab_size": tokenizer.vocab_size, **settings}
        )
        save_model(folder / "model", build_model(model_settings, seed=0), folder / "tokenizer", settings=kept)
        return folder / "model"

    return make


@pytest.fixture(scope="session")
def tuned_model(small_model: Callable[..., Path]) -> Callable[..., Path]:
    """`tuned_model(folder, tokenizer, task, metadata)`: a small model with a task's head, which is not trained."""
    from encodery.finetune.artifact import save
    from encodery.finetune.fine_tuned import FineTuned
    from encodery.model.load import load_model

    def make(folder: Path, tokenizer: Tokenizer, task: Task, metadata: TaskMetadata, max_length: int = 24) -> Path:
        loaded = load_model(small_model(folder, tokenizer, max_length=max_length))
        module = task.build(loaded.model.settings.shape, metadata)
        save(folder / "tuned", loaded.model, FineTuned(task, module, metadata, {}, max_length, "error"), loaded, {}, {})
        return folder / "tuned"

    return make


@pytest.fixture(scope="session")
def weighing_model(small_model: Callable[..., Path]) -> Callable[..., Path]:
    """`weighing_model(folder, tokenizer)`: a small model of term weights with a head of chance; it reads 24 tokens."""
    import torch

    from encodery.embed.examples import EmbeddingExamples
    from encodery.embed.job import EmbedJob
    from encodery.embed.planning import recipe_settings
    from encodery.embed.prepared import prepare_texts
    from encodery.embed.reading import EmbedData
    from encodery.model.load import load_model
    from encodery.train.distributed import DistributedContext

    def make(folder: Path, tokenizer: Tokenizer) -> Path:
        loaded = load_model(small_model(folder, tokenizer, max_length=24, head=None))
        data = EmbeddingExamples((["red cat", "one dog"], ["a red cat", "one dog"]))
        settings = recipe_settings("tilde_v2", {}, loaded)
        job = EmbedJob(
            settings, prepare_texts(settings, loaded, EmbedData(data)), DistributedContext(), torch.device("cpu")
        )
        torch.manual_seed(0)
        torch.nn.init.normal_(job.module["term_head"].linear.weight, std=1.0)  # type: ignore[index]
        job.save(folder / "weighing", {})
        return folder / "weighing"

    return make
