"""Heads of imported folders: the kind of a class, formats that declare no head, missing tensors, identity layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import decode
from encodery.finetune.artifact import load_head
from encodery.finetune.imported import CONFIG_KEY, head_kind, identity_layers, read_head
from encodery.model.conversion import Origin
from encodery.model.formats.bert import BertFormat
from encodery.model.load import LoadedModel
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings

CLASSES = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "no", "1": "yes"}}


@pytest.fixture
def imported(loaded: LoadedModel) -> Callable[..., LoadedModel]:
    """`imported(config, outputs)`: a model as read from a BERT folder whose head has `outputs` outputs."""
    width = loaded.model.settings.width
    template = {field.name: None for field in dataclasses.fields(Origin)}

    def make(config: Mapping[str, Any], outputs: int = 2, **tensors: torch.Tensor | None) -> LoadedModel:
        stored = {
            "bert.pooler.dense.weight": torch.eye(width),
            "bert.pooler.dense.bias": torch.zeros(width),
            "classifier.weight": torch.randn(outputs, width),
            "classifier.bias": torch.zeros(outputs),
            **{name.replace("__", "."): tensor for name, tensor in tensors.items()},
        }
        present = {name: tensor for name, tensor in stored.items() if tensor is not None}
        origin = Origin(**{**template, "format": "bert", "config": dict(config), "extra_tensors": present})
        return dataclasses.replace(loaded, artifact=None, settings={}, origin=origin)

    return make


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("BertForSequenceClassification", "SequenceClassification"),
        ("RobertaForTokenClassification", "TokenClassification"),
        ("ModernBertForQuestionAnswering", "QuestionAnswering"),
        ("BertForMultipleChoice", "MultipleChoice"),
        ("BertForMaskedLM", None),
    ],
)
def test_the_kind_of_head_is_in_the_name_of_the_class(architecture: str, kind: str | None) -> None:
    assert head_kind({"architectures": [architecture]}) == kind
    assert head_kind({}) is None


def test_the_task_follows_the_outputs_and_the_labels(imported: Callable[..., LoadedModel]) -> None:
    head = read_head(imported(CLASSES))
    assert head is not None
    assert (name_of(head.task), head.metadata.labels) == ("classify", ("no", "yes"))
    several = read_head(imported({**CLASSES, "problem_type": "multi_label_classification"}))
    assert several is not None
    assert name_of(several.task) == "multilabel"
    number = read_head(imported({**CLASSES, "problem_type": "regression"}, outputs=1))
    assert number is not None
    assert name_of(number.task) == "regress"
    ranker = read_head(imported(CLASSES, outputs=1))
    assert ranker is not None
    assert name_of(ranker.task) == "rank"
    named = read_head(imported({**CLASSES, CONFIG_KEY: {"task": {"is": "regress"}}}, outputs=1))
    assert named is not None
    assert name_of(named.task) == "regress"


def test_a_format_that_declares_no_head_is_named(
    imported: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BertFormat, "heads", MappingProxyType({}))
    for read in (read_head, load_head):
        with pytest.raises(SettingsError, match=r"'bert' does not declare where BertForSequenceClassification stores"):
            read(imported(CLASSES))


def test_a_missing_tensor_is_named(imported: Callable[..., LoadedModel]) -> None:
    with pytest.raises(ArtifactError, match=r"has no tensor 'classifier\.weight'"):
        read_head(imported(CLASSES, classifier__weight=None))
    head = read_head(imported(CLASSES, bert__pooler__dense__bias=None))
    assert head is not None, "the bias of the dense layer may be missing"
    assert not head.module.state_dict()["head.dense.bias"].any()


def test_identity_layers_change_nothing() -> None:
    table = {"width": 32, "depth": 1, "heads": 2, "vocab_size": 10, "block": "pre"}
    model = build_model(decode(ModelSettings, table), seed=0)
    norm = model.encoder.final_norm
    assert isinstance(norm, torch.nn.LayerNorm)
    torch.manual_seed(0)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(32) + 0.5)
    layers = identity_layers(model)
    states = norm(torch.randn(20, 32)).detach()
    dense = F.linear(states, layers["dense.weight"], layers["dense.bias"])
    again = F.layer_norm(dense, (32,), layers["norm.weight"], layers["norm.bias"], norm.eps)
    torch.testing.assert_close(again, states, rtol=1e-4, atol=1e-4)


def test_models_without_a_task_are_refused(loaded: LoadedModel) -> None:
    with pytest.raises(ArtifactError, match="has no task"):
        load_head(loaded)
