"""Heads of fine-tuned models in stock classes: the same outputs there, and the same predictions when they are read
back.

The heads are random; their learning rate scale, temperature and spread must be folded into the weights, and their
threshold must be stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import decode
from encodery.cli.__main__ import run
from encodery.export.hf import HFExporter
from encodery.finetune.artifact import save
from encodery.finetune.fine_tuned import FineTuned
from encodery.finetune.predict import Predictor
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks import Task
from encodery.model.attention.full import FullAttention
from encodery.model.blocks.pre import PreNorm
from encodery.model.ffn.glu import GLU
from encodery.model.load import LoadedModel, load_model, save_model
from encodery.model.masks.alternating import AlternatingMask
from encodery.model.network import build_model
from encodery.model.norms.layer import LayerNorm
from encodery.model.positions.learned import LearnedPositions
from encodery.model.positions.rotary import RotaryPositions
from encodery.model.settings import ModelSettings

SIZES: dict[str, Any] = {
    "width": 32,
    "depth": 2,
    "heads": 2,
    "intermediate_size": 48,
    "vocab_size": 320,
    "max_length": 64,
}
MODERN: dict[str, Any] = {
    **SIZES,
    "attention": FullAttention(bias=False, bias_out=False),
    "ffn": GLU(bias=False, bias_out=False),
    "positions": RotaryPositions(theta=9000.0, local_theta=800.0),
    "mask": AlternatingMask(size=6, every=2),
    "block": PreNorm(first_norm=False),
}
LAYOUTS = {
    "bert": ModelSettings(**SIZES, type_vocab_size=2),
    "roberta": ModelSettings(**SIZES, positions=LearnedPositions(offset=1)),
    "modernbert": ModelSettings(**MODERN, norm=LayerNorm(eps=1e-5, bias=False)),
    "modernbert-shifted": ModelSettings(**MODERN, norm=LayerNorm(eps=1e-5, bias=True)),
}
THREE = TaskMetadata(labels=("cold", "mild", "warm"), counts=(1, 2, 3))
CLS = {"pooling": "cls", "head_dense": True}
FIRST = {"pooling": "cls", "head_dense": False}
NORMED = {"pooling": "mean", "head_dense": True, "head_norm": True}
TAGS = TaskMetadata(labels=("B-PER", "I-PER", "O"), counts=(1, 1, 1))
TASKS: dict[str, tuple[dict[str, Any], TaskMetadata, dict[str, float]]] = {
    "classify": ({"is": "classify"}, THREE, {"temperature": 1.7}),
    "pair": ({"is": "pair"}, THREE, {"temperature": 0.6}),
    "multilabel": ({"is": "multilabel"}, THREE, {"threshold": 0.4}),
    "regress": ({"is": "regress"}, TaskMetadata(mean=3.0, std=1.5), {}),
    "rank": ({"is": "rank"}, TaskMetadata(low=0.0, high=3.0), {}),
    "choice": ({"is": "choice"}, TaskMetadata(), {"temperature": 1.2}),
    "tag": ({"is": "tag", "overlap": 8}, TAGS, {}),
    "tag-io": ({"is": "tag", "scheme": "io"}, replace(TAGS, labels=("LOC", "O", "PER")), {}),
    "tag-plain": ({"is": "tag"}, replace(TAGS, labels=("DET", "NOUN", "VERB"), tag_kind="plain"), {}),
    "span": ({"is": "span", "max_answer_tokens": 5, "overlap": 8}, TaskMetadata(unanswered=3), {"threshold": 0.1}),
}
OF_TEXTS = ("classify", "pair", "multilabel", "regress", "rank", "choice")
CASES = [
    *[(layout, task, CLS) for layout in ("bert", "roberta") for task in OF_TEXTS],
    *[(layout, task, FIRST) for layout in ("modernbert", "modernbert-shifted") for task in OF_TEXTS],
    *[(layout, task, {}) for layout in LAYOUTS for task in TASKS if task not in OF_TEXTS],
    *[("modernbert", "rank", NORMED | {"pooling": pooling}) for pooling in ("mean", "cls")],
]
NAMES = [f"{layout}-{task}-{''.join(map(str, form.values()))}" for layout, task, form in CASES]


Tune = Callable[..., LoadedModel]


@pytest.fixture
def tuned(tokenizer: Path, tmp_path: Path) -> Tune:
    """`tuned(layout, task, **form)`: a model with a random head whose outputs depend on the text."""

    def make(layout: str, task: str, form: dict[str, Any], max_length: int = 60) -> LoadedModel:
        model = build_model(LAYOUTS[layout], 3)
        draw = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn(weight.shape, generator=draw) * 0.15)
        save_model(tmp_path / "model", model, tokenizer, overwrite=True)
        loaded = load_model(tmp_path / "model")
        table, known, calibration = TASKS[task]
        part = decode(Task, {**table, **form})
        module = part.build(loaded.model.settings.shape, known)
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(torch.randn(weight.shape, generator=draw) * 0.1)
        head = FineTuned(part, module.eval(), known, calibration, max_length, part.truncate)
        save(tmp_path / "tuned", loaded.model, head, loaded, {}, {})
        return load_model(tmp_path / "tuned")

    return make


def rows_of(task: str, texts: list[str]) -> dict[str, list[Any]]:
    """Rows of a task; some of those for tags and spans are longer than the model's maximum."""
    short = [" ".join(text.split()[:9]) for text in texts[:12]]
    if task == "tag":
        return {"text": [*short, *texts[12:16]]}
    if task == "span":
        return {"question": short[:6], "context": [*short[6:11], " ".join(texts[12:14])]}
    if task == "choice":
        return {"question": short[:4], "choices": [short[4:7], short[5:9], short[4:6], short[9:12]]}
    if task == "rank":
        return {"query": short[:6], "text": short[6:]}
    return {"text": short[:6], "text_b": short[6:]} if task == "pair" else {"text": short}


def predictions(predictor: Predictor, rows: dict[str, list[Any]]) -> str:
    """All predictions as text, with rounded numbers."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, list):
            return [plain(one) for one in value]
        return round(value, 3) + 0.0 if isinstance(value, float) else value

    return json.dumps(plain(predictor.predict(rows).answers))


@pytest.mark.parametrize(("layout", "task", "form"), CASES, ids=NAMES)
def test_a_head_in_its_stock_class(
    layout: str,
    task: str,
    form: dict[str, Any],
    tuned: Tune,
    texts: list[str],
    transformers: ModuleType,
    tmp_path: Path,
) -> None:
    loaded, out = tuned(layout, task, form), tmp_path / "out"
    done = HFExporter().write(loaded, out)
    assert done.format == layout.partition("-")[0]
    assert max(done.metrics["drift_transformers"], done.metrics["drift_read_back"]) <= 2e-5
    assert done.metrics["tokenizer_ids_equal"]
    card = (out / "README.md").read_text()
    assert f"Fine-tuned for the task `{TASKS[task][0]['is']}`" in card
    assert "has no head for it" not in card
    ours = Predictor.from_model(load_model(tmp_path / "tuned"), "cpu")
    rows = rows_of(name_of(ours.task), texts)
    expected = predictions(ours, rows)
    assert len(set(expected)) > 10
    again = Predictor.from_model(load_model(out), "cpu")
    assert name_of(again.task) == name_of(ours.task)
    assert again.preprocessor.max_length == 60
    assert predictions(again, rows) == expected
    assert run(["model", "import", str(out), "--out", str(tmp_path / "ours")]) == 0
    imported = load_model(tmp_path / "ours")
    assert predictions(Predictor.from_model(imported, "cpu"), rows) == expected
    HFExporter().write(imported, tmp_path / "twice")
    assert (tmp_path / "twice/model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert "encodery" in json.loads((tmp_path / "twice/config.json").read_text())


def piped(transformers: ModuleType, kind: str, folder: Path, **settings: Any) -> Any:
    transformers.utils.logging.set_verbosity_error()
    return transformers.pipeline(kind, model=str(folder), device="cpu", **settings)


@pytest.mark.parametrize(("layout", "form"), [("bert", CLS), ("modernbert", FIRST)])
def test_probabilities_of_a_stock_pipeline(
    layout: str, form: dict[str, Any], tuned: Tune, texts: list[str], transformers: ModuleType, tmp_path: Path
) -> None:
    rows = rows_of("classify", texts)
    for task, key in (("classify", "probabilities"), ("multilabel", "probabilities"), ("regress", "prediction")):
        loaded = tuned(layout, task, form)
        HFExporter().write(loaded, tmp_path / task)
        answers = Predictor.from_model(loaded, "cpu").predict(rows).answers
        pipeline = piped(transformers, "text-classification", tmp_path / task, top_k=None)
        for answer, output in zip(answers, pipeline(rows["text"]), strict=True):
            if task == "regress":
                assert output[0]["score"] == pytest.approx(answer[key], abs=1e-4)
            else:
                assert {one["label"]: one["score"] for one in output} == pytest.approx(answer[key], abs=1e-5)


@pytest.mark.parametrize("layout", ["bert", "roberta", "modernbert"])
def test_spans_of_a_stock_pipeline(
    layout: str, tuned: Tune, texts: list[str], transformers: ModuleType, tmp_path: Path
) -> None:
    loaded = tuned(layout, "tag", {})
    HFExporter().write(loaded, tmp_path / "out")
    words = [" ".join(word for word in text.split() if word.isalpha()) for text in texts[:40]]
    words = [" ".join(text.split()[:8]) for text in words if len(text.split()) > 3]
    pipeline = piped(transformers, "token-classification", tmp_path / "out", aggregation_strategy="first")
    theirs = [[(one["start"], one["end"], one["entity_group"]) for one in output] for output in pipeline(words)]
    answers = Predictor.from_model(loaded, "cpu").predict({"text": words}).answers
    ours = [[(span["start"], span["end"], span["label"]) for span in answer["spans"]] for answer in answers]
    assert theirs == ours
    assert sum(map(len, ours)) > 20


@pytest.mark.parametrize(
    ("layout", "task", "form", "why"),
    [
        (
            "bert",
            "classify",
            {"pooling": "mean", "head_dense": True},
            r"mean of the hidden states, a dense layer with tanh",
        ),
        ("bert", "pair", FIRST, r"the first hidden state and a linear map.*BertForSequenceClassification"),
        (
            "roberta",
            "regress",
            {"pooling": "mean", "head_dense": False},
            r"task\.pooling=cls task\.head_dense=true.*head=false",
        ),
        (
            "modernbert",
            "classify",
            {"pooling": "mean", "head_dense": True},
            r"before the linear map.*task\.head_dense=false",
        ),
        ("modernbert", "multilabel", {"pooling": "max", "head_dense": False}, r"the maximum of the hidden states"),
    ],
)
def test_a_head_that_no_class_computes_is_refused(
    layout: str, task: str, form: dict[str, Any], why: str, tuned: Tune, tmp_path: Path
) -> None:
    loaded = tuned(layout, task, form)
    with pytest.raises(SettingsError, match=why):
        HFExporter().write(loaded, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    HFExporter(head=False).write(loaded, tmp_path / "out")


def test_stock_heads_made_elsewhere(
    tokenizer: Path, texts: list[str], transformers: ModuleType, tmp_path: Path
) -> None:
    """They contain nothing about the task but the labels, which are numbered if they have no names."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(1)
    config = transformers.BertConfig(**sizes, vocab_size=320, num_labels=3, initializer_range=0.3, pad_token_id=0)
    ready = transformers.AutoTokenizer.from_pretrained(str(tokenizer))
    rows = {"text": [" ".join(text.split()[:9]) for text in texts[:6]]}
    inputs = ready(rows["text"], padding=True, return_tensors="pt")
    for kind, task in (("SequenceClassification", "classify"), ("TokenClassification", "tag")):
        model = getattr(transformers, f"BertFor{kind}")(config).eval()
        model.save_pretrained(tmp_path / kind)
        ready.save_pretrained(tmp_path / kind)
        predictor = Predictor.from_model(load_model(tmp_path / kind), "cpu")
        assert name_of(predictor.task) == task
        assert predictor.metadata.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
        examples = predictor.task.prepare(rows, predictor.preprocessor, predictor.metadata, False)
        ours = np.concatenate([np.atleast_2d(head) for head in predictor.outputs(examples)])
        with torch.inference_mode():
            theirs = model(**inputs).logits
        theirs = theirs[inputs["attention_mask"].bool()] if task == "tag" else theirs
        np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-5)


def test_an_unsupported_head_is_exported_unchanged(tokenizer: Path, transformers: ModuleType, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = transformers.ModernBertConfig(**sizes, vocab_size=320, num_labels=3, pad_token_id=0)
    transformers.ModernBertForSequenceClassification(config).save_pretrained(tmp_path / "stock")
    loaded = load_model(tmp_path / "stock")
    HFExporter().write(loaded, tmp_path / "out")
    original, exported = (load_file(tmp_path / name / "model.safetensors") for name in ("stock", "out"))
    assert original.keys() == exported.keys()
    changed = LoadedModel(loaded.path, build_model(LAYOUTS["modernbert"], 1), origin=loaded.origin)
    with pytest.raises(SettingsError, match=r"ModernBertForSequenceClassification is not supported.*head=false"):
        HFExporter().write(changed, tmp_path / "changed")


def test_a_head_with_a_missing_weight_is_refused(tuned: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import encodery.export._folder as folder

    monkeypatch.setattr(folder, "check_read_back", lambda *_: 0.0)
    loaded = tuned("bert", "tag", {})
    true = folder.to_checkpoint
    monkeypatch.setattr(folder, "to_checkpoint", lambda *a: {**true(*a), "left.weight": torch.ones(2)})
    with pytest.raises(ArtifactError, match=r"disagree on tensors: .*left\.weight"):
        HFExporter().write(loaded, tmp_path / "out")


def test_a_head_in_half_precision(tuned: Tune, tmp_path: Path) -> None:
    for layout, task, form in (("bert", "classify", CLS), ("modernbert", "tag", {})):
        for dtype in ("float16", "bfloat16"):
            out = tmp_path / f"{layout}-{dtype}"
            HFExporter(dtype=dtype).write(tuned(layout, task, form), out)  # type: ignore[arg-type]
            assert name_of(Predictor.from_model(load_model(out), "cpu").task) == task
