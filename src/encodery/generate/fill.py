"""Fills each mask with its most probable tokens, which is what a masked language model predicts. arXiv:1810.04805

All masks of a text are predicted in one pass, each as if the others stayed masked; `one_by_one` instead fills the most
certain slot, predicts again, and so on (arXiv:1904.09324 with one token per step). Special tokens and unused entries of
the vocabulary are never proposed: probabilities are over all others. Shapes: T tokens, V vocabulary, S slots.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import InputError
from encodery.base.settings import check_at_least
from encodery.generate import GeneratedText, Proposal, TextGenerator
from encodery.model.shape import Batch

if TYPE_CHECKING:
    from encodery.model.network import Model
    from encodery.tokens.tokenizer import Tokenizer

MASK_SPELLINGS = ("[MASK]", "<mask>")


@dataclass(frozen=True, kw_only=True)
class FillMask(TextGenerator):
    """Use it to see what a model has learnt, and to complete words in a text. `top_k`: proposals per slot. A mask is
    written [MASK], <mask>, or as the tokenizer has it.

        encodery fill "The captain [MASK] the letter." --model run
    """

    top_k: int = 5
    one_by_one: bool = False

    def __post_init__(self) -> None:
        check_at_least(self, 1, "top_k")

    def generate(self, model: Model, tokenizer: Tokenizer, texts: Sequence[str], seed: int = 0) -> list[GeneratedText]:
        return [self.fill(masked, model, tokenizer) for masked in self.encode(model, tokenizer, texts)]

    def encode(self, model: Model, tokenizer: Tokenizer, texts: Sequence[str]) -> list[MaskedText]:
        """Tokenise the texts, to be given to `fill` one by one. Raises as `generate`."""
        if "mlm" not in model.heads:
            raise InputError(
                "This model has no 'mlm' head, so it cannot fill masks; embedding models are often stored without it."
            )
        model.eval()
        mask = tokenizer.roles["mask"]
        if mask is None:
            raise InputError("This tokenizer has no mask token.")
        pattern = re.compile("|".join(map(re.escape, sorted({*MASK_SPELLINGS, mask}, key=len, reverse=True))))
        limit = model.settings.max_length
        return [MaskedText(number, pattern.split(text), mask, tokenizer, limit) for number, text in enumerate(texts)]

    def fill(self, masked: MaskedText, model: Model, tokenizer: Tokenizer) -> GeneratedText:
        """Return the result of one encoded text."""
        ids, count = masked.ids.copy(), len(masked.positions)
        chosen: dict[int, list[tuple[int, float]]] = {}
        allowed = _allowed_tokens(tokenizer, model.settings.vocab_size)
        while len(chosen) < count:
            open_slots = [slot for slot in range(count) if slot not in chosen]
            probabilities = _probabilities(model, ids, masked.positions[open_slots], allowed)
            best = probabilities.topk(min(self.top_k, int(allowed.sum())))
            proposals = [
                list(zip(numbers, values, strict=True))
                for numbers, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
            if not self.one_by_one:
                chosen |= dict(zip(open_slots, proposals, strict=True))
                break
            surest = max(range(len(proposals)), key=lambda index: proposals[index][0][1])
            chosen[open_slots[surest]] = proposals[surest]
            ids[masked.positions[open_slots[surest]]] = proposals[surest][0][0]
        return masked.filled([chosen[slot] for slot in range(count)])


class MaskedText:
    """A text split at its masks into `pieces`: `ids` (T,) with special tokens, and the `positions` (S,) of its masks.

    Raises `InputError` for a text without a mask, a text that is too long, or masks that the tokenizer merges.
    """

    def __init__(self, number: int, pieces: list[str], mask: str, tokenizer: Tokenizer, max_length: int) -> None:
        self.pieces = pieces
        self.tokenizer = tokenizer
        if len(pieces) < 2:
            raise InputError(
                f"Text {number} has no mask: write {' or '.join(MASK_SPELLINGS)} where a token is to be filled in."
            )
        text = mask.join(pieces)
        self.ids = tokenizer.encode(text, add_special_tokens=True, parse_special_tokens=True).astype(np.int64)
        self.positions = np.flatnonzero(self.ids == tokenizer.mask_id)
        if len(self.ids) > max_length:
            raise InputError(f"Text {number} has {len(self.ids)} tokens; the model takes at most {max_length}.")
        if len(self.positions) != len(pieces) - 1:
            raise InputError(f"Text {number}: the tokenizer does not keep its {len(pieces) - 1} masks apart.")

    def filled(self, slots: list[list[tuple[int, float]]]) -> GeneratedText:
        """Return the text with the (id, probability) proposals of each slot."""
        best = [self._surface(proposals[0][0]) for proposals in slots]
        rows = []
        for slot, proposals in enumerate(slots):
            row = []
            for number, probability in proposals:
                surface = self._surface(number)
                text = self._joined([*best[:slot], surface, *best[slot + 1 :]])
                row.append(Proposal(surface[0], number, probability, text))
            rows.append(tuple(row))
        return GeneratedText(self._joined(best), tuple(rows))

    def _surface(self, number: int) -> tuple[str, bool]:
        """How a token reads, and whether it continues the word before it."""
        piece = self.tokenizer.decode([number], skip_special_tokens=False).strip()
        inside = not bool(self.tokenizer.word_start[number])
        return piece.removeprefix("##") or self.tokenizer.piece(number), inside

    def _joined(self, surfaces: list[tuple[str, bool]]) -> str:
        text = self.pieces[0]
        for (surface, inside), piece in zip(surfaces, self.pieces[1:], strict=True):
            text = (text.rstrip() if inside else text) + surface + piece
        return text


def _allowed_tokens(tokenizer: Tokenizer, vocab_size: int) -> Tensor:
    """(V,) bool: tokens that may be proposed."""
    allowed = torch.zeros(vocab_size, dtype=torch.bool)
    allowed[: tokenizer.used_size] = torch.tensor([bool(piece) for piece in tokenizer.pieces])[:vocab_size]
    allowed[sorted(tokenizer.special_ids)] = False
    return allowed


@torch.inference_mode()
def _probabilities(model: Model, ids: np.ndarray, positions: np.ndarray, allowed: Tensor) -> Tensor:
    """Probabilities (S, V) at the positions (S,), over the allowed tokens (V,)."""
    device = model.encoder.token_embeddings.device
    hidden = model.encoder(Batch.from_sequences([ids.tolist()], device=device)).hidden
    logits: Tensor = model.mlm_head(hidden[torch.from_numpy(positions).to(device)], model.encoder).float().cpu()
    return logits.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
