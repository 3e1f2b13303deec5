"""Truncation, int8 and binary post-processing; the formulas of poolings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.encoders.pooling.attention import AttentionPooling
from encodery.encoders.pooling.latent_attention import LatentAttention
from encodery.encoders.pooling.layers import Layers
from encodery.encoders.pooling.mean import Mean
from encodery.encoders.pooling.weighted import Weighted
from encodery.encoders.postprocess.binary import Binary
from encodery.encoders.postprocess.int8 import Int8
from encodery.encoders.postprocess.truncate import Truncate
from encodery.encoders.postprocessing import PostProcessing
from encodery.model.network import build_model
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output

RNG = np.random.default_rng(0)
SAMPLE = (RNG.standard_normal((2000, 12)) * np.linspace(0.2, 4, 12) + 3).astype(np.float32)
MODEL = build_model(ModelSettings(width=16, depth=3, heads=2, vocab_size=64, max_length=16), 0).eval()
BATCH = Batch.from_sequences([[2, 7, 8, 9, 3], [2, 3], [2, 11, 12, 3]])


def test_truncation_keeps_the_first_dimensions() -> None:
    assert Truncate(keep=5).apply(SAMPLE, {}).tolist() == SAMPLE[:, :5].tolist()
    assert Truncate(keep=50).output_dim(12) == 12
    assert Truncate(keep=50).apply(SAMPLE, {}).shape == SAMPLE.shape
    with pytest.raises(SettingsError, match="keep = 0"):
        Truncate(keep=0)


def test_int8_is_within_half_a_step_and_clips_beyond() -> None:
    part = Int8()
    state = part.fit(SAMPLE)
    codes = part.codes(SAMPLE, state)
    assert codes.dtype == np.int8
    assert codes.min() == -127
    assert codes.max() == 127
    apart = np.abs(part.apply(SAMPLE, state) - SAMPLE)
    assert (apart <= state["step"] * 0.501).all()
    np.testing.assert_array_equal(part.codes(SAMPLE[:1] + 100, state), np.full((1, 12), 127))
    narrow = Int8(clip_fraction=0.05)
    assert (narrow.fit(SAMPLE)["step"] < state["step"]).all()
    cosine = (part.apply(SAMPLE, state) * SAMPLE).sum(1) / np.linalg.norm(SAMPLE, axis=1)
    assert (cosine / np.linalg.norm(part.apply(SAMPLE, state), axis=1) > 0.9995).all()
    constant = part.fit(np.ones((3, 2), np.float32))
    assert np.isfinite(part.apply(np.ones((3, 2), np.float32), constant)).all()


def test_binary_inner_products_equal_the_agreement_of_codes() -> None:
    part = Binary()
    state = part.fit(SAMPLE)
    vectors, codes = part.apply(SAMPLE, state), part.codes(SAMPLE, state)
    assert codes.shape == (2000, 2)
    assert codes.dtype == np.uint8
    assert np.abs((vectors > 0).mean(axis=0) - 0.5).max() < 0.01, "every bit is balanced"
    differing = np.unpackbits(codes[:1] ^ codes[1:50], axis=1)[:, :12].sum(axis=1)
    np.testing.assert_allclose(vectors[1:50] @ vectors[0], 1 - 2 * differing / 12, atol=1e-6)
    plain = Binary(centred=False)
    assert (plain.apply(SAMPLE, plain.fit(SAMPLE)) > 0).mean() > 0.5


def test_steps_are_applied_in_order() -> None:
    postprocessing = PostProcessing.fitted((Truncate(keep=8), Int8(), Binary()), SAMPLE)
    assert postprocessing.output_dim(12) == 8
    assert set(np.unique(np.abs(postprocessing.apply(SAMPLE)))) == {np.float32(1 / np.sqrt(8))}


@torch.inference_mode()
def test_poolings_by_their_formulas() -> None:
    output = MODEL.encoder(BATCH, keep_layers=True)
    shape = MODEL.settings.shape
    mean = Mean().build(shape)(output, BATCH)
    parts = torch.split(output.hidden, [5, 2, 4])
    weighted = [(part * torch.arange(1, len(part) + 1)[:, None]).sum(0) for part in parts]
    totals = torch.tensor([15.0, 3.0, 10.0])[:, None]
    torch.testing.assert_close(Weighted().build(shape)(output, BATCH), torch.stack(weighted) / totals)
    assert output.layers is not None
    for layers, hidden in (
        ((-1,), output.hidden),
        ((3,), output.hidden),
        ((1, -1), (output.layers[1] + output.hidden) / 2),
        ((0, 2), (output.layers[0] + output.layers[2]) / 2),
    ):
        result = Layers(layers=layers).build(shape)(output, BATCH)
        torch.testing.assert_close(result, Mean().build(shape)(Output(hidden), BATCH))
    for part in (AttentionPooling(), LatentAttention()):
        module = part.build(shape)
        torch.testing.assert_close(module(output, BATCH), mean, msg="equals the mean before training")
    module = AttentionPooling().build(shape)
    torch.nn.init.normal_(module.get_parameter("score.weight"))
    score = torch.split(output.hidden @ module.get_parameter("score.weight")[0], [5, 2, 4])
    by_hand = [(part * s.softmax(0)[:, None]).sum(0) for part, s in zip(parts, score, strict=True)]
    torch.testing.assert_close(module(output, BATCH), torch.stack(by_hand))


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(SettingsError, match="there is no layer 4; the model has 0 to 3"):
        Layers(layers=(4,)).build(MODEL.settings.shape)
    with pytest.raises(SettingsError, match="none twice"):
        Layers(layers=(1, 1))
