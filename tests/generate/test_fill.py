"""Filling masks: the texts that come out, several masks, and what is refused."""

from __future__ import annotations

import pytest
import torch

from encodery.base.errors import InputError, SettingsError
from encodery.generate.fill import FillMask
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.tokenizer import Tokenizer

SETTINGS = ModelSettings(width=16, depth=1, heads=2, vocab_size=64, max_length=12)


@pytest.fixture
def biased(tokenizer: Tokenizer) -> Model:
    """Prefers the special tokens and unused entries above all, then `dog`, then `##s`."""
    model = build_model(SETTINGS, seed=0)
    bias = model.mlm_head.bias
    assert isinstance(bias, torch.Tensor)
    with torch.no_grad():
        bias[:5] = 100
        bias[13:] = 100
        bias[tokenizer.encode("dog")[0]] = 50
        bias[10] = 40
    return model


def test_the_text_reads_as_written(biased: Model, tokenizer: Tokenizer) -> None:
    filled = FillMask(top_k=2).generate(biased, tokenizer, ["The  [MASK] ran."])[0]
    assert filled.text == "The  dog ran."
    first, second = filled.slots[0]
    assert (first.token, first.text) == ("dog", "The  dog ran.")
    assert (second.token, second.text) == ("s", "Thes ran.")
    assert first.probability == pytest.approx(1, abs=1e-3)


def test_several_masks_in_both_spellings(biased: Model, tokenizer: Tokenizer) -> None:
    filled = FillMask(top_k=3).generate(biased, tokenizer, ["<mask> and [MASK]"])[0]
    assert filled.text == "dog and dog"
    assert [slot[1].text for slot in filled.slots] == ["s and dog", "dog ands"]


def test_one_by_one_predicts_again_after_each_slot(tokenizer: Tokenizer) -> None:
    model = build_model(SETTINGS, seed=1)
    texts = ["[MASK] cat [MASK] on [MASK]"]
    together = FillMask(top_k=1).generate(model, tokenizer, texts)[0]
    in_turn = FillMask(top_k=1, one_by_one=True).generate(model, tokenizer, texts)[0]
    first = max(range(3), key=lambda slot: together.slots[slot][0].probability)
    assert in_turn.slots[first][0].id == together.slots[first][0].id
    others = [slot for slot in range(3) if slot != first]
    pieces = ["[MASK]"] * 3
    pieces[first] = together.slots[first][0].token
    halfway = FillMask(top_k=1).generate(model, tokenizer, ["{} cat {} on {}".format(*pieces)])[0]
    second = max(range(2), key=lambda slot: halfway.slots[slot][0].probability)
    proposal = in_turn.slots[others[second]][0]
    assert proposal.id == halfway.slots[second][0].id
    assert proposal.probability == pytest.approx(halfway.slots[second][0].probability, abs=1e-5)


def test_results_do_not_depend_on_the_other_texts(tokenizer: Tokenizer) -> None:
    model = build_model(SETTINGS, seed=1)
    texts = ["the [MASK]", "cat [MASK] on the dog", "[MASK]"]
    together = FillMask().generate(model, tokenizer, texts)
    for text, result in zip(texts, together, strict=True):
        assert FillMask().generate(model, tokenizer, [text])[0] == result


def test_invalid_texts_are_refused(biased: Model, tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"Text 1 has no mask.*\[MASK\]"):
        FillMask().generate(biased, tokenizer, ["[MASK]", "no mask at all"])
    with pytest.raises(InputError, match="17 tokens; the model takes at most 12"):
        FillMask().generate(biased, tokenizer, ["[MASK] " + "cat " * 14])
    with pytest.raises(SettingsError, match="top_k = 0"):
        FillMask(top_k=0)
