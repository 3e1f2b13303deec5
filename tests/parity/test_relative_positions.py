"""Positions by relative distance against transformers: T5's bias, and the hidden states of MPNet and DeBERTa."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from encodery.base.settings import decode
from encodery.model.network import Model, build_model
from encodery.model.positions.relative_bias import RelativeBias
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

SIZES = {"width": 32, "depth": 2, "heads": 4, "intermediate_size": 40, "vocab_size": 97, "max_length": 80}
STOCK = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 82,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-5,
}
SEQUENCES = [list(range(3, 78)), [5, 6, 7, 8, 9, 9, 40], [11, 12]]
TOLERANCE = 2e-5


def ours(positions: Any) -> Model:
    norm = {"is": "layer", "eps": 1e-5}
    settings = decode(ModelSettings, {**SIZES, "positions": positions, "norm": norm, "head": None})
    return build_model(settings).eval()


def randomised(stock: nn.Module) -> nn.Module:
    """The stock model with other random weights, large enough that positions matter."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in stock.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return stock.eval()


def copy_layer(
    block: nn.Module, theirs: nn.Module, qkv: tuple[Tensor, Tensor], out: nn.Module, norm: nn.Module
) -> None:
    """The weights of a post-norm layer; `qkv`: weight and bias of the projection."""
    pairs = [
        (block.attention.out, out), (block.attention_norm, norm), (block.ffn.up, theirs.intermediate.dense),
        (block.ffn.down, theirs.output.dense), (block.ffn_norm, theirs.output.LayerNorm),
    ]  # fmt: skip
    with torch.no_grad():
        block.attention.qkv.weight.copy_(qkv[0])
        block.attention.qkv.bias.copy_(qkv[1])
    for own, other in pairs:
        own.load_state_dict(other.state_dict())


def joined(*layers: nn.Linear) -> tuple[Tensor, Tensor]:
    return torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])


def check(model: Model, stock: nn.Module) -> None:
    """The hidden states agree, and the positions matter."""
    with torch.no_grad():
        theirs = torch.cat([stock(torch.tensor([ids])).last_hidden_state[0] for ids in SEQUENCES])
        hidden = model(Batch.from_sequences(SEQUENCES)).hidden
        torch.testing.assert_close(hidden, theirs, rtol=0, atol=TOLERANCE)
        for weight in model.encoder.positions.parameters():
            weight.zero_()
        without = model(Batch.from_sequences(SEQUENCES)).hidden
    assert (without - theirs).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize(("buckets", "distance", "length"), [(32, 128, 300), (8, 20, 30), (32, 128, 1)])
def test_bias_of_t5(transformers: ModuleType, buckets: int, distance: int, length: int) -> None:
    config = transformers.T5Config(
        num_heads=4, d_model=32, relative_attention_num_buckets=buckets, relative_attention_max_distance=distance
    )
    stock = transformers.models.t5.modeling_t5.T5Attention(config, has_relative_attention_bias=True)
    model = ours({"is": "relative_bias", "buckets": buckets, "max_distance": distance})
    module, shape = model.encoder.positions, model.settings.layer_shapes[0]
    nn.init.normal_(stock.relative_attention_bias.weight)
    with torch.no_grad():
        module.table.weight.copy_(stock.relative_attention_bias.weight)
        theirs = stock.compute_bias(length, length)[0]
        by_distance = module.bias(Batch.from_sequences([[0] * length, [0]]).layout, shape)
    position = torch.arange(length)
    distances = position[None, :] - position[:, None]
    assert torch.equal(by_distance[:, distances + by_distance.shape[1] // 2], theirs)
    assert RelativeBias() == RelativeBias(buckets=32, max_distance=128, per_layer=False)


def test_hidden_states_of_mpnet(transformers: ModuleType) -> None:
    config = transformers.MPNetConfig(**{key: size for key, size in STOCK.items() if key != "type_vocab_size"})
    stock = randomised(transformers.MPNetModel(config, add_pooling_layer=False))
    model = ours({"is": "sum", "of": [{"is": "learned", "offset": 2}, "relative_bias"]})
    encoder, embeddings = model.encoder, stock.embeddings
    encoder.embeddings.word.load_state_dict(embeddings.word_embeddings.state_dict())
    encoder.embedding_norm.load_state_dict(embeddings.LayerNorm.state_dict())
    learned, bias = encoder.positions.parts
    learned.load_state_dict({"table.weight": embeddings.position_embeddings.weight})
    bias.load_state_dict({"table.weight": stock.encoder.relative_attention_bias.weight})
    for block, theirs in zip(encoder.blocks, stock.encoder.layer, strict=True):
        attention = theirs.attention.attn
        copy_layer(
            block, theirs, joined(attention.q, attention.k, attention.v), attention.o, theirs.attention.LayerNorm
        )
    check(model, stock)


@pytest.mark.parametrize("products", [["c2p", "p2c"], ["c2p"], ["p2c"]], ids="+".join)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_hidden_states_of_the_second_deberta(transformers: ModuleType, products: list[str], shared: bool) -> None:
    config = transformers.DebertaV2Config(
        **STOCK, relative_attention=True, position_buckets=16, max_relative_positions=60, share_att_key=shared,
        pos_att_type=products, position_biased_input=False, norm_rel_ebd="layer_norm",
    )  # fmt: skip
    stock = randomised(transformers.DebertaV2Model(config))
    model = ours({
        "is": "disentangled", "buckets": 16, "max_distance": 60, "products": products, "shared_projections": shared,
        "norm": {"is": "layer", "eps": 1e-5},
    })  # fmt: skip
    encoder = model.encoder
    encoder.positions.norm.load_state_dict(stock.encoder.LayerNorm.state_dict())
    copy_deberta(encoder, stock)
    for layer, theirs in enumerate(stock.encoder.layer):
        own = theirs.attention.self
        projections = joined(own.query_proj, own.key_proj, own.value_proj)
        copy_layer(
            encoder.blocks[layer], theirs, projections, theirs.attention.output.dense, theirs.attention.output.LayerNorm
        )
        if not shared and "c2p" in products:
            encoder.positions.keys[layer].load_state_dict({"weight": own.pos_key_proj.weight})
        if not shared and "p2c" in products:
            encoder.positions.queries[layer].load_state_dict(own.pos_query_proj.state_dict())
    check(model, stock)


@pytest.mark.parametrize("distance", [82, 20])
def test_hidden_states_of_the_first_deberta(transformers: ModuleType, distance: int) -> None:
    config = transformers.DebertaConfig(
        **STOCK, relative_attention=True, max_relative_positions=distance, pos_att_type=["c2p", "p2c"],
        position_biased_input=False,
    )  # fmt: skip
    stock = randomised(transformers.DebertaModel(config))
    model = ours({"is": "disentangled", "buckets": None, "max_distance": distance, "shared_projections": False})
    copy_deberta(model.encoder, stock)
    for layer, theirs in enumerate(stock.encoder.layer):
        own = theirs.attention.self
        weight = own.in_proj.weight.view(4, 3, 8, 32).transpose(0, 1).reshape(96, 32)
        bias = torch.cat([own.q_bias, torch.zeros(32), own.v_bias])
        output = theirs.attention.output
        copy_layer(model.encoder.blocks[layer], theirs, (weight, bias), output.dense, output.LayerNorm)
        model.encoder.positions.keys[layer].load_state_dict(own.pos_proj.state_dict())
        model.encoder.positions.queries[layer].load_state_dict(own.pos_q_proj.state_dict())
    check(model, stock)


def copy_deberta(encoder: nn.Module, stock: nn.Module) -> None:
    """The weights outside the layers."""
    encoder.embeddings.word.load_state_dict(stock.embeddings.word_embeddings.state_dict())
    encoder.embedding_norm.load_state_dict(stock.embeddings.LayerNorm.state_dict())
    encoder.positions.table.weight.data.copy_(stock.encoder.rel_embeddings.weight)
