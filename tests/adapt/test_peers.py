"""LoRA, DoRA and (IA)³ compute what `peft` computes with the same values, before and after merging."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from encodery.adapt import Adaptation, inject, merge_and_unload
from encodery.base.settings import decode
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings

TINY = ModelSettings(width=32, depth=1, heads=2, intermediate_size=64, vocab_size=50, max_length=16)


@pytest.fixture(scope="module")
def peft() -> ModuleType:
    module: ModuleType = pytest.importorskip("peft")
    return module


class Peer(nn.Module):
    """The same two linear layers under names that peft can target."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        block = model.encoder.blocks[0]
        for name, layer in (("up", block.ffn.up), ("down", block.ffn.down)):  # type: ignore[union-attr]
            plain = nn.Linear(layer.in_features, layer.out_features)  # type: ignore[union-attr, arg-type]
            plain.load_state_dict(layer.state_dict())  # type: ignore[union-attr]
            setattr(self, name, plain)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.relu(self.up(x)))  # type: ignore[operator]
        return y


def ours(model: Model, x: Tensor) -> Tensor:
    ffn = model.encoder.blocks[0].ffn
    y: Tensor = ffn.down(torch.relu(ffn.up(x)))  # type: ignore[union-attr, operator]
    return y


def draw(shape: torch.Size, seed: int) -> Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "stabilised"), [("lora", False), ("lora", True), ("dora", False)])
def test_low_rank_adaptations_equal_peft(peft: ModuleType, name: str, stabilised: bool) -> None:
    model = build_model(TINY)
    table: dict[str, Any] = {"is": name, "rank": 4, "alpha": 6.0, "targets": ["up", "down"]}
    part = decode(Adaptation, table | ({"rank_stabilised": True} if stabilised else {}))
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["up", "down"], use_dora=name == "dora", use_rslora=stabilised
    )
    theirs = peft.get_peft_model(Peer(model), config)
    inject(model, part, 0)
    with torch.no_grad():
        for seed, target in enumerate(("up", "down")):
            mine = getattr(model.encoder.blocks[0].ffn, target)
            other = getattr(theirs.base_model.model, target)
            pairs = ((mine.factors[target].a, other.lora_A), (mine.factors[target].b, other.lora_B))
            for more, (own, peer) in enumerate(pairs):
                own.copy_(draw(own.shape, 10 * seed + more))
                peer["default"].weight.copy_(own)
            if name == "dora":
                mine.lengths[target] += 0.5
                other.lora_magnitude_vector["default"].weight.copy_(mine.lengths[target])
    x = draw(torch.Size([7, 32]), 99)
    torch.testing.assert_close(ours(model, x), theirs(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        ours(merge_and_unload(model, part), x), theirs.merge_and_unload()(x), atol=1e-5, rtol=1e-5
    )


def test_ia3_equals_peft(peft: ModuleType) -> None:
    model = build_model(TINY)
    part = decode(Adaptation, {"is": "ia3", "targets": ["up", "down"]})
    config = peft.IA3Config(target_modules=["up", "down"], feedforward_modules=["down"])
    theirs = peft.get_peft_model(Peer(model), config)
    inject(model, part, 0)
    with torch.no_grad():
        for target in ("up", "down"):
            scale = getattr(model.encoder.blocks[0].ffn, target).scales[target]
            scale += draw(scale.shape, 3)
            peer = getattr(theirs.base_model.model, target).ia3_l["default"]
            peer.copy_(scale.view(peer.shape))
    x = draw(torch.Size([7, 32]), 99)
    torch.testing.assert_close(ours(model, x), theirs(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        ours(merge_and_unload(model, part), x), theirs.merge_and_unload()(x), atol=1e-5, rtol=1e-5
    )
