"""The whole model: seeds, sizes, heads, dropout, and errors that a user can correct."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from encodery.base.errors import InputError, SettingsError
from encodery.base.settings import decode, encode
from encodery.model.attention.full import FullAttention
from encodery.model.blocks.pre import PreNorm
from encodery.model.embeddings.factorized import FactorizedEmbeddings
from encodery.model.ffn.glu import GLU
from encodery.model.heads.mlm import MLMHead
from encodery.model.network import build_model, copy_for_training
from encodery.model.norms.layer import LayerNorm
from encodery.model.positions.learned import LearnedPositions
from encodery.model.positions.rotary import RotaryPositions
from encodery.model.positions.sinusoidal import SinusoidalPositions
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

TINY = ModelSettings(width=16, depth=2, heads=2, intermediate_size=24, vocab_size=50, max_length=20)
BATCH = Batch.from_sequences([[1, 2, 3, 4], [5, 6, 7], [8]])


def test_seeds() -> None:
    torch.manual_seed(0)
    first = build_model(TINY, seed=3)
    state = torch.get_rng_state()
    second = build_model(TINY, seed=3)
    other = build_model(TINY, seed=4)
    assert torch.equal(state, torch.get_rng_state()), "the global generator is left alone"
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.encoder.token_embeddings, other.encoder.token_embeddings)


def test_every_weight_is_initialised() -> None:
    torch.use_deterministic_algorithms(True)  # uninitialised memory is NaN
    try:
        for part in (
            TINY,
            dataclasses.replace(TINY, embeddings=FactorizedEmbeddings(width=8), head=MLMHead(tied=False)),
        ):
            assert all(torch.isfinite(p).all() for p in build_model(part).parameters())
    finally:
        torch.use_deterministic_algorithms(False)


def test_names_that_checkpoint_formats_rely_on() -> None:
    settings = dataclasses.replace(
        TINY, type_vocab_size=2, embeddings=FactorizedEmbeddings(width=8), block=PreNorm(), depth=1
    )
    names = {name: tuple(p.shape) for name, p in build_model(settings).named_parameters()}
    pair = {"weight", "bias"}
    assert names["encoder.embeddings.word.weight"] == (50, 8)
    assert names["encoder.embeddings.segment.weight"] == (2, 8)
    assert names["encoder.embeddings.project.weight"] == (16, 8)
    assert names["encoder.positions.table.weight"] == (20, 8)
    assert names["encoder.blocks.0.attention.qkv.weight"] == (48, 16)
    assert names["heads.mlm.bias"] == (50,)
    modules = {name.rsplit(".", 1)[0] for name in names if name.rsplit(".", 1)[1] in pair}
    assert modules == {
        "encoder.embeddings.word", "encoder.embeddings.segment", "encoder.embeddings.project",
        "encoder.positions.table", "encoder.embedding_norm", "encoder.final_norm",
        "encoder.blocks.0.attention.qkv", "encoder.blocks.0.attention.out", "encoder.blocks.0.attention_norm",
        "encoder.blocks.0.ffn.up", "encoder.blocks.0.ffn.down", "encoder.blocks.0.ffn_norm",
        "heads.mlm.dense", "heads.mlm.norm", "heads.mlm",
    }  # fmt: skip
    untied = build_model(dataclasses.replace(TINY, head=MLMHead(tied=False)))
    assert untied.state_dict()["heads.mlm.decoder.weight"].shape == (50, 16)


def test_bias_switches() -> None:
    plain = dataclasses.replace(
        TINY,
        norm=LayerNorm(bias=False),
        attention=FullAttention(bias=False, bias_out=False),
        ffn=GLU(bias=False, bias_out=False),
        block=PreNorm(first_norm=False),
        head=MLMHead(dense_bias=False, bias=False),
    )
    model = build_model(plain)
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]
    names = dict(model.named_parameters())
    assert "encoder.blocks.0.attention_norm.weight" not in names
    assert "encoder.blocks.1.attention_norm.weight" in names
    model(BATCH).hidden.sum().backward()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("transform", [True, False])
def test_head(tied: bool, transform: bool) -> None:
    model = build_model(dataclasses.replace(TINY, head=MLMHead(tied=tied, transform=transform)))
    states = model(BATCH).hidden[[0, 3]]
    weight, bias = model.mlm_head.decoder(model.encoder)
    assert (weight is model.encoder.token_embeddings) == tied
    logits = model.mlm_head(states, model.encoder)
    torch.testing.assert_close(logits, model.mlm_head.features(states) @ weight.t() + bias)
    logits.sum().backward()
    assert model.encoder.token_embeddings.grad.abs().sum() > 0
    assert copy.deepcopy(model).mlm_head(states, model.encoder).shape == (2, 50)
    with pytest.raises(SettingsError, match="no 'mlm' head"):
        _ = build_model(dataclasses.replace(TINY, head=None)).mlm_head


def test_settings_survive_a_round_trip() -> None:
    settings = dataclasses.replace(
        TINY, positions=RotaryPositions(theta=5e4, local_theta=1e4), ffn=GLU(activation="silu"), head=None
    )
    assert decode(ModelSettings, encode(settings)) == settings


def test_segments_default_to_the_first() -> None:
    model = build_model(dataclasses.replace(TINY, type_vocab_size=2))
    explicit = Batch.from_sequences([[1, 2, 3]], [[0, 0, 0]])
    other = Batch.from_sequences([[1, 2, 3]], [[0, 1, 1]])
    absent = model(Batch.from_sequences([[1, 2, 3]])).hidden
    assert torch.equal(absent, model(explicit).hidden)
    assert not torch.allclose(absent, model(other).hidden)


def test_layers() -> None:
    model = build_model(TINY)
    assert model(BATCH).layers is None
    output = model(BATCH, keep_layers=True)
    assert len(output.layers) == 3
    assert torch.equal(output.layers[-1], output.hidden), "post-norm: nothing follows the last block"
    before = [layer.clone() for layer in output.layers]
    assert all(torch.equal(a, b) for a, b in zip(before, model(BATCH, keep_layers=True).layers, strict=True))


def test_dropout_is_seeded_and_off_in_evaluation() -> None:
    model = build_model(dataclasses.replace(TINY, dropout=0.3, attention=FullAttention(dropout=0.3)))
    still = build_model(TINY)
    torch.manual_seed(1)
    first = model(BATCH).hidden
    torch.manual_seed(1)
    assert torch.equal(first, model(BATCH).hidden)
    assert not torch.equal(first, model(BATCH).hidden)
    first.sum().backward()
    assert torch.equal(model.eval()(BATCH).hidden, still.eval()(BATCH).hidden)


def test_copies_train_with_the_given_dropout_and_none_of_attention() -> None:
    model = build_model(dataclasses.replace(TINY, dropout=0.2, attention=FullAttention(dropout=0.2)))
    still, other, own = copy_for_training(model, 0.0), copy_for_training(model, 0.3), copy_for_training(model, None)
    assert still.settings == other.settings == model.settings
    assert torch.equal(still.train()(BATCH).hidden, model.eval()(BATCH).hidden)
    for trained, dropout in ((other, 0.3), (own, 0.2)):
        drops = {module.p for module in trained.modules() if isinstance(module, torch.nn.Dropout)}
        assert drops == {dropout}
        assert all(block.attention.dropout == 0 for block in trained.encoder.blocks)


@pytest.mark.parametrize("block", ["post", "pre"])
def test_gradients_are_those_of_the_value(block: str) -> None:
    settings = decode(
        ModelSettings,
        {"width": 4, "depth": 2, "heads": 2, "intermediate_size": 3, "vocab_size": 6,
         "block": block, "positions": "rotary", "ffn": "glu", "mask": {"is": "window", "size": 1},
         "init": {"is": "normal", "std": 0.7}},
    )  # fmt: skip
    model = build_model(settings).double()
    batch = Batch.from_sequences([[1, 2, 3, 4], [1, 5, 3, 0], [2, 0]])
    leaves = dict(model.encoder.named_parameters())

    def hidden(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(leaves, values, strict=True))
        output = torch.func.functional_call(model.encoder, named, (batch,))
        return output.hidden

    torch.autograd.gradcheck(hidden, tuple(leaves.values()), fast_mode=True)


def test_errors_name_the_setting() -> None:
    with pytest.raises(SettingsError, match="width = 10 is not a multiple of heads = 4"):
        ModelSettings(width=10, heads=4)
    with pytest.raises(SettingsError, match="depth = -1"):
        ModelSettings(depth=-1)
    with pytest.raises(SettingsError, match="dropout = 1"):
        ModelSettings(dropout=1.0)
    with pytest.raises(SettingsError, match="even head size, not 3"):
        dataclasses.replace(TINY, head_size=3, positions=RotaryPositions())
    with pytest.raises(SettingsError, match="positions = 'sinusoidal': needs an even embedding size, not 9"):
        dataclasses.replace(TINY, embeddings=FactorizedEmbeddings(width=9), positions=SinusoidalPositions())
    with pytest.raises(SettingsError, match=r"head\.transform = false"):
        build_model(dataclasses.replace(TINY, embeddings=FactorizedEmbeddings(width=8), head=MLMHead(transform=False)))
    with pytest.raises(InputError, match="21 tokens is longer than the model's 20"):
        build_model(dataclasses.replace(TINY, positions=LearnedPositions(offset=2)))(Batch.from_sequences([[1] * 21]))


def test_head_size_is_independent_of_width() -> None:
    model = build_model(dataclasses.replace(TINY, head_size=5))
    assert model.encoder.blocks[0].attention.qkv.weight.shape == (30, 16)
    assert model(BATCH).hidden.shape == (8, 16)
