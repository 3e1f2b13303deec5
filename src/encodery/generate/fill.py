"""Fills each mask with its most probable tokens, as masked language models are asked. arXiv:1810.04805

Every mask of a text is asked in one pass, each as if the others stayed hidden; `one_by_one` instead fills the surest
slot, asks again, and so on (arXiv:1904.09324 with one token a step). Neither special tokens nor unused entries of the
vocabulary are ever proposed: probabilities are over all others. Shapes: T tokens, H width, V vocabulary, S slots.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import InputError, SettingsError
from encodery.generate import GeneratedText, Proposal, TextGenerator
from encodery.model.shape import Batch

if TYPE_CHECKING:
    from encodery.model.network import Model
    from encodery.tokens.tokenizer import Tokenizer

WRITTEN = ("[MASK]", "<mask>")


@dataclass(frozen=True, kw_only=True)
class FillMask(TextGenerator):
    """`top`: proposals a slot. A mask is written [MASK], <mask>, or as the tokenizer has it."""

    top_k: int = 5
    one_by_one: bool = False

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise SettingsError(f"top = {self.top_k}: must be at least 1.")

    def generate(self, model: Model, tokenizer: Tokenizer, texts: Sequence[str], seed: int = 0) -> list[GeneratedText]:
        asked = self.encode(model, tokenizer, texts)
        return [self.fill(one, model, tokenizer) for one in asked]

    def encode(self, model: Model, tokenizer: Tokenizer, texts: Sequence[str]) -> list[_Asked]:
        """The texts, tokenised, to be given to `filled` one by one. Raises as `generate`."""
        if "mlm" not in model.heads:
            raise InputError(
                "This model has no 'mlm' head, so it cannot fill masks; embedding models often lost theirs."
            )
        model.eval()
        mask = tokenizer.roles["mask"]
        if mask is None:
            raise InputError("This tokenizer has no mask token.")
        pattern = re.compile("|".join(map(re.escape, sorted({*WRITTEN, mask}, key=len, reverse=True))))
        return [_Asked(number, text, pattern, mask, tokenizer, model) for number, text in enumerate(texts)]

    def fill(self, asked: _Asked, model: Model, tokenizer: Tokenizer) -> GeneratedText:
        """The result of one text that was read."""
        chosen: dict[int, list[tuple[int, float]]] = {}
        allowed = _allowed(tokenizer, model.settings.vocab_size)
        while len(chosen) < len(asked.places):
            open_slots = [slot for slot in range(len(asked.places)) if slot not in chosen]
            chances = _chances(model, asked.ids, asked.places[open_slots], allowed)
            best = chances.topk(min(self.top_k, int(allowed.sum())))
            found = [
                list(zip(ids, values, strict=True))
                for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
            if not self.one_by_one:
                chosen |= dict(zip(open_slots, found, strict=True))
                break
            surest = max(range(len(found)), key=lambda place: found[place][0][1])
            chosen[open_slots[surest]] = found[surest]
            asked.ids[asked.places[open_slots[surest]]] = found[surest][0][0]
        return asked.generated([chosen[slot] for slot in range(len(asked.places))])


class _Asked:
    """A text cut at its masks: `ids` (T,) with special tokens, `places` (S,) of the masks in them."""

    def __init__(
        self, number: int, text: str, pattern: re.Pattern[str], mask: str, tokenizer: Tokenizer, model: Model
    ) -> None:
        self.pieces = pattern.split(text)
        self.tokenizer = tokenizer
        if len(self.pieces) < 2:
            raise InputError(
                f"Text {number} has no mask: write {' or '.join(WRITTEN)} where a token is to be filled in."
            )
        self.ids = tokenizer.encode(mask.join(self.pieces), add_special_tokens=True, parse_special_tokens=True).astype(
            np.int64
        )
        self.places = np.flatnonzero(self.ids == tokenizer.mask_id)
        longest = model.settings.max_length
        if len(self.ids) > longest:
            raise InputError(f"Text {number} has {len(self.ids)} tokens, the model takes {longest}.")
        if len(self.places) != len(self.pieces) - 1:
            raise InputError(f"Text {number}: the tokenizer does not keep its {len(self.pieces) - 1} masks apart.")

    def generated(self, slots: list[list[tuple[int, float]]]) -> GeneratedText:
        best = [self._surface(proposals[0][0]) for proposals in slots]
        found = []
        for slot, proposals in enumerate(slots):
            row = []
            for number, chance in proposals:
                surface = self._surface(number)
                text = self._joined([*best[:slot], surface, *best[slot + 1 :]])
                row.append(Proposal(surface[0], number, chance, text))
            found.append(tuple(row))
        return GeneratedText(self._joined(best), tuple(found))

    def _surface(self, number: int) -> tuple[str, bool]:
        """How a token reads, and whether it goes on with the word before it."""
        piece = self.tokenizer.decode([number], skip_special_tokens=False).strip()
        inside = not bool(self.tokenizer.word_start[number])
        return piece.removeprefix("##") or self.tokenizer.piece(number), inside

    def _joined(self, surfaces: list[tuple[str, bool]]) -> str:
        text = self.pieces[0]
        for (surface, inside), piece in zip(surfaces, self.pieces[1:], strict=True):
            text = (text.rstrip() if inside else text) + surface + piece
        return text


def _allowed(tokenizer: Tokenizer, vocabulary: int) -> Tensor:
    """(V,) bool: tokens that may be proposed."""
    allowed = torch.zeros(vocabulary, dtype=torch.bool)
    allowed[: tokenizer.used_size] = torch.tensor([bool(piece) for piece in tokenizer.pieces])[:vocabulary]
    allowed[sorted(tokenizer.special_ids)] = False
    return allowed


@torch.inference_mode()
def _chances(model: Model, ids: np.ndarray, places: np.ndarray, allowed: Tensor) -> Tensor:
    """Probabilities (S, V) at the places (S,), over the allowed tokens (V,)."""
    device = model.encoder.token_embeddings.device
    hidden = model.encoder(Batch.from_sequences([ids.tolist()], device=device)).hidden
    logits: Tensor = model.mlm_head(hidden[torch.from_numpy(places).to(device)], model.encoder).float().cpu()
    return logits.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
