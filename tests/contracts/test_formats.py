"""Contract of the doors: whatever layouts lie in the folder; and what they refuse, by name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.parts import find_part, part_names
from encodery.model.attention.full import FullAttention
from encodery.model.blocks.pre import PreNorm
from encodery.model.conversion import exportable_format, format_of, from_checkpoint, to_checkpoint
from encodery.model.embeddings.factorized import FactorizedEmbeddings
from encodery.model.ffn.glu import GLU
from encodery.model.ffn.mlp import MLP as FeedForward  # noqa: N811
from encodery.model.format_types import SpecialTokenIds
from encodery.model.formats import CheckpointFormat
from encodery.model.heads.mlm import MLMHead
from encodery.model.init.normal import NormalInit
from encodery.model.masks.alternating import AlternatingMask
from encodery.model.masks.document import DocumentMask
from encodery.model.masks.pattern import PatternMask
from encodery.model.masks.window import WindowMask
from encodery.model.network import Model, build_model
from encodery.model.norms.layer import LayerNorm
from encodery.model.norms.rms import RMSNorm
from encodery.model.positions.alibi import ALiBi
from encodery.model.positions.learned import LearnedPositions
from encodery.model.positions.none import NoPositions
from encodery.model.positions.rotary import RotaryPositions
from encodery.model.positions.sinusoidal import SinusoidalPositions
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

SIZES: dict[str, Any] = {
    "width": 16,
    "depth": 3,
    "heads": 2,
    "intermediate_size": 20,
    "vocab_size": 64,
    "max_length": 32,
}
SPECIAL = SpecialTokenIds(pad=0, cls=2, sep=3, mask=4)
POST = ModelSettings(**SIZES, type_vocab_size=2)
PADDED_POST = dataclasses.replace(POST, positions=LearnedPositions(offset=1), type_vocab_size=1)
PRE = ModelSettings(
    **SIZES,
    positions=RotaryPositions(theta=500.0, local_theta=50.0),
    attention=FullAttention(bias=False, bias_out=False),
    mask=AlternatingMask(size=4, every=2),
    ffn=GLU(bias=False, bias_out=False),
    norm=LayerNorm(eps=1e-5, bias=False),
    block=PreNorm(first_norm=False),
    init=NormalInit(cutoff=2.0),
    head=MLMHead(dense_bias=False),
)
FITTING = {"bert": POST, "roberta": PADDED_POST, "modernbert": PRE}
BATCH = Batch.from_sequences([[5, 6, 7], [9], [11 + i for i in range(21)], [8, 5]])


def drawn(settings: ModelSettings) -> Model:
    """A model whose every weight is drawn, norms and biases too."""
    model = build_model(settings, 0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())) * 0.1)
    return model


@torch.inference_mode()
def outputs(model: Model) -> torch.Tensor:
    hidden: torch.Tensor = model(BATCH).hidden
    found: torch.Tensor = hidden if model.settings.head is None else model.mlm_head(hidden, model.encoder)
    return found


def through(model: Model, layout: str | None = None) -> tuple[Model, dict[str, Any]]:
    """Out by a door and in again."""
    door = exportable_format(model.settings, SPECIAL, layout)
    config = json.loads(json.dumps(door.write_config(model.settings, SPECIAL)))
    assert format_of(config) == door
    return from_checkpoint(door, config, to_checkpoint(door, config, model, None))[0], config


@pytest.mark.parametrize("head", ["mlm", "untied", "none"])
@pytest.mark.parametrize("name", part_names(CheckpointFormat))
def test_what_every_door_promises(name: str, head: str) -> None:
    settings = FITTING[name]
    if head != "mlm":
        assert isinstance(settings.head, MLMHead)
        kept = None if head == "none" else dataclasses.replace(settings.head, tied=False)
        settings = dataclasses.replace(settings, head=kept)
    door = find_part(CheckpointFormat, name)()
    assert door.incompatibilities(settings, SPECIAL) == []
    model = drawn(settings)
    again, config = through(model, name)
    assert [find_part(CheckpointFormat, other)().matches(config) for other in part_names(CheckpointFormat)].count(
        True
    ) == 1
    assert again.settings == settings
    assert model.state_dict().keys() == again.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    assert set(door.tensor_names(config, settings)) == set(model.state_dict()), "nothing filled in, nothing left out"
    for other, wrong in FITTING.items():
        if other != name:
            assert door.incompatibilities(wrong, SPECIAL), f"{name} must not take what is made for {other}"


@pytest.mark.parametrize("missing", ["segments", "bias", "norm", "head", "positions", "sinusoidal", "scaled"])
def test_what_the_bert_layout_has_and_a_model_lacks_is_written_as_what_changes_nothing(missing: str) -> None:
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
    model = drawn(dataclasses.replace(POST, **changes[missing]))
    again, config = through(model)
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
def test_variants_of_the_modernbert_layout_compute_the_same(change: dict[str, Any]) -> None:
    model = drawn(dataclasses.replace(PRE, **change))
    again, config = through(model)
    assert config["model_type"] == "modernbert"
    torch.testing.assert_close(outputs(again), outputs(model), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (dataclasses.replace(POST, positions=ALiBi()), "positions = 'alibi'"),
        (dataclasses.replace(POST, norm=RMSNorm()), "norm = 'rms'"),
        (dataclasses.replace(POST, embeddings=FactorizedEmbeddings(width=8)), "embeddings = 'factorized'"),
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
def test_what_no_layout_can_hold_is_refused_naming_setting_and_layouts(settings: ModelSettings, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        exportable_format(settings, SPECIAL)
    assert named in str(caught.value)
    assert all(layout in str(caught.value) for layout in part_names(CheckpointFormat))


@pytest.mark.parametrize(
    ("layout", "change"),
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
def test_keys_that_would_change_what_is_computed_are_refused_by_name(layout: str, change: dict[str, Any]) -> None:
    door = find_part(CheckpointFormat, layout)()
    config = door.write_config(FITTING[layout], SPECIAL)
    door.read_config(config, head=True)
    with pytest.raises(SettingsError, match=next(iter(change))):
        door.read_config({**config, **change}, head=True)


def test_activations_are_suggested() -> None:
    with pytest.raises(SettingsError, match="Did you mean 'gelu_new'"):
        format_of({"model_type": "bert"}).read_config(
            {**find_part(CheckpointFormat, "bert")().write_config(POST, SPECIAL), "hidden_act": "gelu_newer"}, head=True
        )


def test_an_unknown_layout_is_named() -> None:
    with pytest.raises(ArtifactError, match=r"'t5'.*bert, modernbert, roberta"):
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
    door = find_part(CheckpointFormat, "modernbert")()
    config = {k: v for k, v in door.write_config(PRE, SPECIAL).items() if k not in OLD_KEYS} | change
    settings = door.read_config(config, head=True)
    assert settings.positions == RotaryPositions(theta=theta, local_theta=local)
    assert settings.mask == AlternatingMask(size=4, every=2)


def test_keys_that_a_layout_does_not_look_at_are_let_pass() -> None:
    door = find_part(CheckpointFormat, "modernbert")()
    config = door.write_config(PRE, SPECIAL)
    assert door.read_config({**config, "position_embedding_type": "sans_pos"}, head=True) == PRE


def test_defaults_of_absent_keys_are_the_stock_ones() -> None:
    door = find_part(CheckpointFormat, "modernbert")()
    config = {k: v for k, v in door.write_config(PRE, SPECIAL).items() if "rope" not in k and k not in OLD_KEYS}
    del config["global_attn_every_n_layers"], config["local_attention"]
    settings = door.read_config(config, head=True)
    assert settings.positions == RotaryPositions(theta=160_000.0, local_theta=10_000.0)
    assert settings.mask == AlternatingMask(size=64, every=3)


@pytest.mark.parametrize("whole", [128, 129])
def test_the_window_is_half_of_local_attention(whole: int) -> None:
    door = find_part(CheckpointFormat, "modernbert")()
    settings = door.read_config({**door.write_config(PRE, SPECIAL), "local_attention": whole}, head=True)
    assert settings.mask.window(1, 3) == 64
