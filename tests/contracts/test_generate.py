"""What every generator promises, over whatever parts lie in the folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from encodery.base.errors import InputError
from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.generate import TextGenerator
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.tokenizer import Tokenizer

WORDS = "the a cat dog sat ran on mat hill ##s ##ing".split()  # noqa: SIM905
SETTINGS = ModelSettings(width=32, depth=1, heads=2, vocab_size=64, max_length=16)


@pytest.fixture(scope="module")
def tokenizer(word_tokenizer: Callable[..., Tokenizer]) -> Tokenizer:
    return word_tokenizer(WORDS)


@pytest.fixture(scope="module")
def model() -> Model:
    return build_model(SETTINGS, seed=3)


@pytest.mark.parametrize("name", part_names(TextGenerator))
class TestGenerator:
    def test_one_result_a_text_in_order_and_the_same_again(self, name: str, model: Model, tokenizer: Tokenizer) -> None:
        part = find_part(TextGenerator, name)()
        texts = ["the [MASK] sat", "a <mask> ran on the [MASK]"]
        found = part.generate(model, tokenizer, texts)
        assert len(found) == 2
        assert [len(one.slots) for one in found] == [1, 2]
        assert part.generate(model, tokenizer, texts[1:]) == found[1:]

    def test_no_special_and_no_unused_token_is_proposed(self, name: str, model: Model, tokenizer: Tokenizer) -> None:
        part = find_part(TextGenerator, name)()
        if "top" in {field.name for field in dataclasses.fields(part)}:  # type: ignore[arg-type]
            part = dataclasses.replace(part, top=64)  # type: ignore[type-var]
        for slot in part.generate(model, tokenizer, ["the [MASK] sat on [MASK]"])[0].slots:
            ids = {proposal.id for proposal in slot}
            assert ids <= set(range(5, 5 + len(WORDS)))
            assert [p.probability for p in slot] == sorted((p.probability for p in slot), reverse=True)
            assert sum(p.probability for p in slot) <= 1 + 1e-5

    def test_a_model_without_the_head_is_refused(self, name: str, tokenizer: Tokenizer) -> None:
        bare = build_model(dataclasses.replace(SETTINGS, head=None))
        with pytest.raises(InputError, match="head"):
            find_part(TextGenerator, name)().generate(bare, tokenizer, ["the [MASK]"])

    def test_settings_round_trip(self, name: str) -> None:
        part = find_part(TextGenerator, name)()
        assert decode(TextGenerator, encode(part)) == part
