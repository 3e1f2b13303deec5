"""Structured pruning: what stays is computed as before, importance is what the loss says, layers compete; errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.settings import decode
from encodery.checks.surgery import TEXTS, example
from encodery.cli.__main__ import run
from encodery.corrupt import Vocabulary
from encodery.corrupt.token import TokenMasking
from encodery.model.load import LoadedModel, load_model
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.model.units import magnitude_scores
from encodery.surgery import Surgery
from encodery.surgery._importance import taylor_scores
from encodery.surgery.prune import StructuredPruning

VARIANTS: dict[str, dict[str, Any]] = {
    "post": {},
    "pre": {"block": "pre", "ffn": "glu", "positions": "rotary", "attention": {"is": "full", "bias": False}},
    "uneven": {"layers": [{"heads": 2}, {"heads": 0}, {"intermediate_size": 0}]},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> LoadedModel:
    base = example(tmp_path)
    table = {"width": 32, "depth": 3, "heads": 4, "intermediate_size": 40, "max_length": 16}
    table |= {"vocab_size": base.tokenizer.vocab_size, **request.param}
    model = build_model(decode(ModelSettings, table), 3).eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    return LoadedModel(base.path, model, tokenizer_path=base.tokenizer_path)


def batches(loaded: LoadedModel) -> list[Batch]:
    ids = [ids.tolist()[:16] for ids in loaded.tokenizer.encode_batch(TEXTS, add_special_tokens=True)]
    return [Batch.from_sequences(ids[:3]), Batch.from_sequences(ids[3:])]


def kept(scores: list[Tensor], fraction: float) -> list[set[int]]:
    """Indices that stay if layers compete."""
    everything = sorted(
        ((float(s), layer, i) for layer, own in enumerate(scores) for i, s in enumerate(own)), reverse=True
    )
    best = everything[: round(fraction * len(everything))]
    return [
        {i for _, owner, i in best if owner == layer} or {int(own.argmax())} if len(own) else set()
        for layer, own in enumerate(scores)
    ]


@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
def test_what_stays_computes_what_the_whole_computes_without_the_rest(loaded: LoadedModel, importance: str) -> None:
    part = decode(Surgery, {"is": "prune", "importance": importance, "multiple_of": 1, "keep_intermediate": 0.3})
    result = part.operate(loaded, torch.Generator().manual_seed(0), batches(loaded))
    if importance == "taylor":
        scores = taylor_scores(loaded, batches(loaded), torch.Generator().manual_seed(0))
    else:
        scores = magnitude_scores(loaded.model)
    heads, units = kept(scores.heads, 0.5), kept(scores.units, 0.3)
    assert [len(h) for h in heads] == [s.heads for s in result.model.settings.layer_shapes]
    assert [len(u) for u in units] == [s.intermediate_size for s in result.model.settings.layer_shapes]
    size = loaded.model.settings.shape.head_size
    with torch.no_grad():
        for layer, block in enumerate(loaded.model.encoder.blocks):
            for name, weight in block.named_parameters():
                if name == "attention.out.weight":
                    removed = [n for n in range(weight.shape[1] // size) if n not in heads[layer]]
                    weight.view(len(weight), -1, size)[:, removed] = 0
                elif name == "ffn.down.weight":
                    weight[:, [i for i in range(weight.shape[1]) if i not in units[layer]]] = 0
        batch = batches(loaded)[0]
        torch.testing.assert_close(result.model(batch).hidden, loaded.model(batch).hidden, rtol=1e-4, atol=1e-5)
    assert result.metrics["parameters"] < result.metrics["parameters_before"]
    assert result.metrics["heads"] == sum(map(len, heads))


def test_importance_is_the_derivative_of_the_loss(loaded: LoadedModel) -> None:
    """By finite differences, on one text, of the loss by the output of a head and of a unit."""
    model = loaded.model.double()
    batch = Batch.from_sequences([loaded.tokenizer.encode(TEXTS[0], add_special_tokens=True).tolist()[:16]])
    masked = TokenMasking().apply(
        batch.ids, batch.cu_seqlens, Vocabulary.of(loaded.tokenizer), torch.Generator().manual_seed(0), 0.0
    )
    block: Any = model.encoder.blocks[2 if model.settings.layer_shapes[2].intermediate_size else 0]
    layer = list(model.encoder.blocks).index(block)

    @torch.no_grad()
    def loss() -> float:
        hidden = model(batch.with_ids(masked.ids)).hidden[masked.masked_positions]
        return float(F.cross_entropy(model.mlm_logits(hidden), masked.labels, reduction="sum"))

    def effect(columns: Tensor) -> float:
        before, step = columns.clone(), 1e-6
        with torch.no_grad():
            columns.copy_(before * (1 + step))
            above = loss()
            columns.copy_(before * (1 - step))
            below = loss()
            columns.copy_(before)
        return abs(above - below) / (2 * step)

    size = model.settings.shape.head_size
    out, down = block.attention.out.weight.data, block.ffn.down.weight.data
    heads = torch.tensor([effect(out[:, n * size : (n + 1) * size]) for n in range(out.shape[1] // size)])
    units = torch.tensor([effect(down[:, i]) for i in range(down.shape[1])])
    scores = taylor_scores(loaded, [batch], torch.Generator().manual_seed(0))
    torch.testing.assert_close(scores.heads[layer], heads / heads.norm(), rtol=1e-3, atol=1e-4, check_dtype=False)
    torch.testing.assert_close(scores.units[layer], units / units.norm(), rtol=1e-3, atol=1e-4, check_dtype=False)


def test_every_layer_keeps_something_and_sizes_are_rounded_up(loaded: LoadedModel) -> None:
    part = StructuredPruning(keep_heads=0, keep_intermediate=0.31, importance="magnitude", compare="layer")
    before = loaded.model.settings.layer_shapes
    after = part.operate(loaded, torch.Generator()).model.settings.layer_shapes
    assert [shape.heads for shape in after] == [min(shape.heads, 1) for shape in before]
    assert [shape.intermediate_size for shape in after] == [16 if shape.intermediate_size else 0 for shape in before]


@pytest.mark.parametrize(
    ("change", "table", "message"),
    [
        ({"positions": "alibi"}, {"importance": "magnitude"}, "no single head can be removed"),
        ({"head": None}, {}, "needs a masked-language-model head; use importance=magnitude"),
        ({}, {}, "needs texts"),
        ({"extensions": [{"is": "adapter", "size": 4}]}, {}, "prune it without them"),
    ],
)
def test_what_cannot_be_pruned_is_refused(change: dict[str, Any], table: dict[str, Any], message: str) -> None:
    settings = decode(ModelSettings, {"width": 16, "depth": 1, "heads": 2, "vocab_size": 30, "max_length": 8, **change})
    loaded = LoadedModel(Path("model"), build_model(settings))
    with pytest.raises(SettingsError, match=message):
        decode(Surgery, {"is": "prune", **table}).operate(loaded, torch.Generator())


def test_the_command_measures_on_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    command = ["model", "edit", str(tmp_path / "model"), "--surgery", "prune", "--out", str(tmp_path / "out")]
    run([*command, "--texts", str(tmp_path / "texts.txt"), "keep_intermediate=0.5"])
    before, after = (load_model(tmp_path / name).model.settings.layer_shapes for name in ("model", "out"))
    assert sum(shape.heads for shape in after) == sum(shape.heads for shape in before) // 2
    assert sum(shape.intermediate_size for shape in after) < sum(shape.intermediate_size for shape in before)
    capsys.readouterr()
    run([*command[:-1], str(tmp_path / "other")])
    assert "give --texts FILE or --tokens FOLDER" in capsys.readouterr().err
