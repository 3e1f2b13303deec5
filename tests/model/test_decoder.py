"""An encoder–decoder: what the decoder sees, that it learns to copy, that it is stored and loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import InputError, SettingsError
from encodery.base.settings import decode, encode
from encodery.model.conversion import exportable_format
from encodery.model.decoder import Decoder
from encodery.model.decoder_settings import DecoderSettings
from encodery.model.embeddings.factorized import FactorizedEmbeddings
from encodery.model.format_types import SpecialTokenIds
from encodery.model.heads.mlm import MLMHead
from encodery.model.load import load_model, save_model
from encodery.model.network import Model, build_model
from encodery.model.positions.rotary import RotaryPositions
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

SETTINGS = ModelSettings(
    width=32,
    depth=2,
    heads=4,
    vocab_size=20,
    max_length=16,
    head=None,
    decoder=DecoderSettings(depth=2, embedding_norm=True),
)
START = 1


def texts(count: int, seed: int) -> list[list[int]]:
    """Random texts of 3 to 6 tokens, from short to long."""
    draw = torch.Generator().manual_seed(seed)
    lengths = sorted(torch.randint(3, 7, (count,), generator=draw).tolist())
    return [torch.randint(2, 20, (length,), generator=draw).tolist() for length in lengths]


def copying(rows: list[list[int]]) -> tuple[Batch, Tensor]:
    """The batch whose decoder writes what its encoder reads, and the labels (T,)."""
    batch = Batch.from_sequences([[START, *row[:-1]] for row in rows])
    return dataclasses.replace(batch, memory=Batch.from_sequences(rows)), torch.tensor([i for row in rows for i in row])


def logits(model: Model, batch: Batch) -> Tensor:
    assert model.decoder is not None
    return model.decoder.lm_head(model(batch).hidden, model.encoder)


@torch.no_grad()
def greedy(model: Model, row: list[int]) -> list[int]:
    """Write as many tokens as the source has, each the most likely after those before."""
    written = [START]
    for _ in row:
        batch = dataclasses.replace(Batch.from_sequences([written]), memory=Batch.from_sequences([row]))
        written.append(int(logits(model, batch)[-1].argmax()))
    return written[1:]


def test_a_two_layer_encoder_decoder_learns_to_copy() -> None:
    model = build_model(SETTINGS, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(400):
        batch, labels = copying(texts(32, step))
        loss = F.cross_entropy(logits(model, batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    unseen = texts(40, 10_000)
    correct = sum(greedy(model, row) == row for row in unseen)
    assert correct >= 36, f"{correct} of 40 texts are copied exactly"
    # Without its memory's order the decoder cannot know what to write.
    batch, labels = copying(unseen)
    assert batch.memory is not None
    shuffled = dataclasses.replace(batch, memory=batch.memory.with_ids(batch.memory.ids.flip(0)))
    assert F.cross_entropy(logits(model, shuffled), labels) > 2.0


@pytest.mark.parametrize("embeddings", [None, FactorizedEmbeddings(width=8)], ids=["plain", "factorized"])
@pytest.mark.parametrize("block", ["post", "pre"])
def test_a_token_depends_on_those_before_it_and_on_its_own_source(block: str, embeddings: object) -> None:
    table = encode(SETTINGS) | {"block": block, "decoder": {"depth": 2, "head": None}}
    table |= {} if embeddings is None else {"embeddings": {"is": "factorized", "width": 8}}
    model = build_model(decode(ModelSettings, table), seed=1).double().eval()
    first, second = [5, 6, 7, 8], [9, 10, 11]
    batch, _ = copying([first, second])
    assert batch.memory is not None
    hidden = model(batch).hidden
    later = model(batch.with_ids(batch.ids.index_fill(0, torch.tensor([2]), 19))).hidden
    torch.testing.assert_close(later[:2], hidden[:2])
    assert (later[2:4] - hidden[2:4]).abs().amax(1).min() > 1e-6
    torch.testing.assert_close(later[4:], hidden[4:])
    source = batch.memory.with_ids(batch.memory.ids.index_fill(0, torch.tensor([1]), 19))
    other = model(dataclasses.replace(batch, memory=source)).hidden
    assert (other[:4] - hidden[:4]).abs().amax(1).min() > 1e-6
    torch.testing.assert_close(other[4:], hidden[4:])
    alone, _ = copying([second])
    torch.testing.assert_close(model(alone).hidden, hidden[4:])


def test_the_encoder_alone_is_as_without_a_decoder() -> None:
    model = build_model(SETTINGS, seed=2)
    plain = Model(dataclasses.replace(SETTINGS, decoder=None))
    plain.encoder = model.encoder
    batch = Batch.from_sequences([[3, 4, 5]])
    torch.testing.assert_close(model(batch).hidden, plain(batch).hidden, rtol=0, atol=0)


def test_it_is_stored_with_its_decoder(tmp_path: Path) -> None:
    model = build_model(SETTINGS, seed=3).eval()
    save_model(tmp_path / "model", model)
    again = load_model(tmp_path / "model").model
    batch, _ = copying(texts(5, 0))
    torch.testing.assert_close(again(batch).hidden, model(batch).hidden, rtol=0, atol=0)
    moved = batch.to("cpu")
    assert moved.memory is not None
    torch.testing.assert_close(model(moved).hidden, model(batch).hidden, rtol=0, atol=0)


def test_rotary_positions_are_those_of_the_decoder() -> None:
    """Rotary positions enter self-attention only: the same token at another place of the memory is read alike."""
    settings = dataclasses.replace(SETTINGS, positions=RotaryPositions(), depth=0)
    model = build_model(settings, seed=4).double().eval()
    batch, _ = copying([[5, 6, 7]])
    hidden = model(batch).hidden
    turned = dataclasses.replace(batch, memory=Batch.from_sequences([[7, 5, 6]]))
    torch.testing.assert_close(model(turned).hidden, hidden)


def test_an_encoder_decoder_is_not_exported_without_its_decoder() -> None:
    settings = dataclasses.replace(SETTINGS, head=MLMHead())
    special = SpecialTokenIds(pad=0, cls=START, sep=2, mask=3)
    with pytest.raises(SettingsError, match=r"decoder: the model is an encoder–decoder \(needs none\)"):
        exportable_format(settings, special)


def test_a_wrong_combination_is_refused() -> None:
    batch, _ = copying([[5, 6]])
    with pytest.raises(SettingsError, match=r"this model has no decoder: set model\.decoder"):
        build_model(dataclasses.replace(SETTINGS, decoder=None))(batch)
    with pytest.raises(SettingsError, match="depth = 0"):
        DecoderSettings(depth=0)
    with pytest.raises(SettingsError, match="This decoder has no head"):
        _ = Decoder(DecoderSettings(head=None), SETTINGS).lm_head
    decoder = build_model(SETTINGS).decoder
    assert decoder is not None
    with pytest.raises(InputError, match=r"the batch has none: set Batch\.memory"):
        decoder(torch.zeros(2, 32), batch.layout)
