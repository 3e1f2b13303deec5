"""Checks of text generators, each with a random model over a vocabulary of a dozen words."""

from __future__ import annotations

import dataclasses
import functools

from encodery.base.errors import InputError
from encodery.base.settings import decode, encode
from encodery.checks import raised_message
from encodery.generate import TextGenerator
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.tokenizer import Tokenizer

SENTENCES = ("the cat sat on the mat", "a dog ran on the hill") * 4
TEXTS = ("the [MASK] sat", "a <mask> ran on the [MASK]")


@functools.cache
def example() -> tuple[Model, Tokenizer]:
    """Return a random model and its tokenizer."""
    tokenizer = Tokenizer(Wordpiece(min_frequency=1).train(SENTENCES, 120))
    tokenizer.set_template()
    settings = ModelSettings(width=32, depth=1, heads=2, vocab_size=tokenizer.vocab_size, max_length=32)
    return build_model(settings, seed=3), tokenizer


def check_settings_round_trip(part: TextGenerator) -> None:
    """The part is what its settings decode to."""
    assert decode(TextGenerator, encode(part)) == part


def check_one_result_per_text(part: TextGenerator) -> None:
    """Results are in the order of the texts, have a slot for each mask, and do not depend on the other texts."""
    model, tokenizer = example()
    results = part.generate(model, tokenizer, TEXTS)
    assert [len(result.slots) for result in results] == [1, 2]
    assert part.generate(model, tokenizer, TEXTS[1:]) == results[1:]


def check_proposals(part: TextGenerator) -> None:
    """No special token and no unused id is proposed; probabilities fall and sum to at most 1."""
    model, tokenizer = example()
    allowed = set(range(tokenizer.used_size)) - tokenizer.special_ids
    for result in part.generate(model, tokenizer, TEXTS):
        for slot in result.slots:
            probabilities = [proposal.probability for proposal in slot]
            assert {proposal.id for proposal in slot} <= allowed
            assert probabilities == sorted(probabilities, reverse=True)
            assert sum(probabilities) <= 1 + 1e-5


def check_model_without_head_is_refused(part: TextGenerator) -> None:
    """A model without the head that the part uses raises `InputError`."""
    model, tokenizer = example()
    headless = build_model(dataclasses.replace(model.settings, head=None))
    message = raised_message(InputError, lambda: part.generate(headless, tokenizer, TEXTS[:1]))
    assert "head" in message, message
