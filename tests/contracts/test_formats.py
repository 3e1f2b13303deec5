"""Contract of checkpoint formats: every check of `encodery.checks.formats` on every part in the folder; and what they
refuse, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch

from encodery import checks
from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.parts import find_part, part_names
from encodery.checks import formats
from encodery.checks.formats import SPECIAL, random_model, round_trip
from encodery.model.attention.full import FullAttention
from encodery.model.blocks.pre import PreNorm
from encodery.model.conversion import exportable_format, format_of
from encodery.model.embeddings.factorized import FactorizedEmbeddings
from encodery.model.ffn.glu import GLU
from encodery.model.ffn.mlp import MLP as FeedForward  # noqa: N811
from encodery.model.formats import CheckpointFormat
from encodery.model.formats.bert import BertFormat
from encodery.model.formats.modernbert import ModernBertFormat
from encodery.model.heads.mlm import MLMHead
from encodery.model.layer_sizes import LayerSizes
from encodery.model.masks.alternating import AlternatingMask
from encodery.model.masks.document import DocumentMask
from encodery.model.masks.pattern import PatternMask
from encodery.model.masks.window import WindowMask
from encodery.model.network import Model
from encodery.model.norms.layer import LayerNorm
from encodery.model.norms.rms import RMSNorm
from encodery.model.positions.alibi import ALiBi
from encodery.model.positions.learned import LearnedPositions
from encodery.model.positions.none import NoPositions
from encodery.model.positions.rotary import RotaryPositions
from encodery.model.positions.sinusoidal import SinusoidalPositions
from encodery.model.reach import Reach
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

POST, PRE = BertFormat.example(), ModernBertFormat.example()
BATCH = Batch.from_sequences([[5, 6, 7], [9], [11 + i for i in range(21)], [8, 5]])


@torch.inference_mode()
def outputs(model: Model) -> torch.Tensor:
    """The logits of a model with a head, otherwise its hidden states."""
    hidden: torch.Tensor = model(BATCH).hidden
    return hidden if model.settings.head is None else model.mlm_logits(hidden)


@pytest.mark.parametrize("check", checks.functions(formats), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(CheckpointFormat))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(CheckpointFormat, name)())


@dataclasses.dataclass(frozen=True)
class _HeadlessFormat(BertFormat):
    heads: ClassVar[dict[Any, Any]] = {}


def test_a_format_without_a_declared_head_names_format_and_class() -> None:
    with pytest.raises(SettingsError, match=r"does not declare where BertForTokenClassification stores"):
        _HeadlessFormat().head_form("TokenClassification", {})
    formats.check_heads_are_declared_or_refused(_HeadlessFormat())


@pytest.mark.parametrize(("name", "others"), [("bert", ["roberta", "modernbert"]), ("roberta", ["bert", "modernbert"])])
def test_a_format_does_not_take_the_example_of_another(name: str, others: list[str]) -> None:
    for other in others:
        example = find_part(CheckpointFormat, other).example()
        assert find_part(CheckpointFormat, name)().incompatibilities(example, SPECIAL), other


@pytest.mark.parametrize("missing", ["segments", "bias", "norm", "head", "positions", "sinusoidal", "scaled"])
def test_what_the_bert_format_has_and_a_model_lacks_is_written_as_what_changes_nothing(missing: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "segments": {"type_vocab_size": 0},
        "bias": {
            "attention": FullAttention(bias=False, bias_out=False),
            "ffn": FeedForward(bias=False, bias_out=False),
        },
        "norm": {"norm": LayerNorm(bias=False)},
        "head": {"head": MLMHead(dense_bias=False, bias=False)},
        "positions": {"positions": NoPositions()},
        "sinusoidal": {"positions": SinusoidalPositions()},
        "scaled": {"positions": SinusoidalPositions(scaled=True)},
    }
    model = random_model(dataclasses.replace(POST, **changes[missing]))
    again, config = round_trip(model)
    assert config["model_type"] == "bert"
    torch.testing.assert_close(outputs(again), outputs(model), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"attention": FullAttention(bias=False, bias_out=True)},
        {"ffn": GLU(bias=True, bias_out=False)},
        {"mask": WindowMask(size=3)},
        {"mask": DocumentMask()},
        {"mask": PatternMask(size=5, global_layers=(1,))},
        {"mask": AlternatingMask(size=3, every=3, first=2)},
        {"positions": RotaryPositions(theta=300.0)},
        {"head": MLMHead(dense_bias=True, bias=False, activation="silu")},
    ],
    ids=str,
)
def test_variants_of_the_modernbert_format_compute_the_same(change: dict[str, Any]) -> None:
    model = random_model(dataclasses.replace(PRE, **change))
    again, config = round_trip(model)
    assert config["model_type"] == "modernbert"
    torch.testing.assert_close(outputs(again), outputs(model), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dataclasses.replace(POST, positions=ALiBi()), "positions = 'alibi'"),
        (dataclasses.replace(POST, norm=RMSNorm()), "norm = 'rms'"),
        (dataclasses.replace(PRE, embeddings=FactorizedEmbeddings(width=8)), "embeddings = 'factorized'"),
        (dataclasses.replace(POST, layer_groups=(0, 1, 1)), "layer_groups: layers share their weights"),
        (dataclasses.replace(POST, layers=(LayerSizes(), LayerSizes(heads=1), LayerSizes())), "layers: sizes differ"),
        (dataclasses.replace(POST, head=MLMHead(transform=False)), "head.transform = false"),
        (dataclasses.replace(POST, head=MLMHead(activation="silu")), "head.activation = 'silu'"),
        (dataclasses.replace(POST, embedding_norm=False), "embedding_norm = false"),
        (dataclasses.replace(POST, head_size=4), "head_size = 4"),
        (dataclasses.replace(POST, mask=WindowMask(size=4)), "mask = 'window'"),
        (dataclasses.replace(POST, positions=LearnedPositions(offset=3)), "positions.offset = 3"),
        (dataclasses.replace(PRE, block=PreNorm()), "block.first_norm = true"),
        (dataclasses.replace(PRE, type_vocab_size=2), "type_vocab_size = 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_format_can_express_is_refused_naming_setting_and_formats(
    settings: ModelSettings, message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        exportable_format(settings, SPECIAL)
    assert message in str(caught.value)
    assert all(name in str(caught.value) for name in part_names(CheckpointFormat))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bert", {"position_embedding_type": "relative_key"}),
        ("bert", {"is_decoder": True}),
        ("bert", {"hidden_act": "quick_gelu"}),
        ("bert", {"add_cross_attention": True}),
        ("bert", {"pruned_heads": {"0": [1]}}),
        ("bert", {"auto_map": {"AutoModel": "modeling.Own"}}),
        ("bert", {"quantization_config": {"bits": 8}}),
        ("roberta", {"pad_token_id": None}),
        ("roberta", {"position_embedding_type": "relative_key_query"}),
        ("modernbert", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1.0}}}),
        ("modernbert", {"layer_types": ["full_attention", "chunked_attention", "full_attention"]}),
        ("modernbert", {"classifier_activation": "mish"}),
        ("modernbert", {"head_dim": 4}),
    ],
    ids=str,
)
def test_keys_that_would_change_the_outputs_are_refused_by_name(name: str, change: dict[str, Any]) -> None:
    checkpoint_format = find_part(CheckpointFormat, name)()
    config = checkpoint_format.write_config(find_part(CheckpointFormat, name).example(), SPECIAL)
    checkpoint_format.read_config(config, head="mlm")
    with pytest.raises(SettingsError, match=next(iter(change))):
        checkpoint_format.read_config({**config, **change}, head="mlm")


def test_activations_are_suggested() -> None:
    with pytest.raises(SettingsError, match="Did you mean 'gelu_new'"):
        format_of({"model_type": "bert"}).read_config(
            {**BertFormat().write_config(POST, SPECIAL), "hidden_act": "gelu_newer"}, head="mlm"
        )


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(ArtifactError, match=r"'t5'.*Known: .*bert, .*roberta"):
        format_of({"model_type": "t5"})


OLD_KEYS = ("rope_parameters", "layer_types")


@pytest.mark.parametrize(
    ("change", "theta", "local"),
    [
        ({}, 500.0, 50.0),
        ({"local_rope_theta": None}, 500.0, None),
        ({"local_rope_theta": -1}, 500.0, None),
        ({"local_rope_theta": 500.0}, 500.0, None),
    ],
)
def test_older_rotary_keys(change: dict[str, Any], theta: float, local: float | None) -> None:
    checkpoint_format = ModernBertFormat()
    config = {k: v for k, v in checkpoint_format.write_config(PRE, SPECIAL).items() if k not in OLD_KEYS} | change
    settings = checkpoint_format.read_config(config, head="mlm")
    assert settings.positions == RotaryPositions(theta=theta, local_theta=local)
    assert settings.mask == AlternatingMask(size=4, every=2)


def test_keys_that_a_format_does_not_read_are_ignored() -> None:
    checkpoint_format = ModernBertFormat()
    config = checkpoint_format.write_config(PRE, SPECIAL)
    assert checkpoint_format.read_config({**config, "position_embedding_type": "sans_pos"}, head="mlm") == PRE


def test_defaults_of_missing_keys_are_those_of_the_stock_class() -> None:
    checkpoint_format = ModernBertFormat()
    config = {
        k: v for k, v in checkpoint_format.write_config(PRE, SPECIAL).items() if "rope" not in k and k not in OLD_KEYS
    }
    del config["global_attn_every_n_layers"], config["local_attention"]
    settings = checkpoint_format.read_config(config, head="mlm")
    assert settings.positions == RotaryPositions(theta=160_000.0, local_theta=10_000.0)
    assert settings.mask == AlternatingMask(size=64, every=3)


@pytest.mark.parametrize("local_attention", [128, 129])
def test_the_window_is_half_of_local_attention(local_attention: int) -> None:
    checkpoint_format = ModernBertFormat()
    settings = checkpoint_format.read_config(
        {**checkpoint_format.write_config(PRE, SPECIAL), "local_attention": local_attention}, head="mlm"
    )
    assert settings.mask.reach(1, 3) == Reach(64, 64)
