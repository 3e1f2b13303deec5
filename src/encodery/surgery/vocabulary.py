"""Another vocabulary under a trained model: that of a new tokenizer, or new words beside the old pieces.

A piece that both have keeps its row, to the last bit. Any other begins as `begin` says (`tokens/transfer/`): by default
as the mean of the rows of the pieces it was spelt with before (arXiv:1905.07213); what nothing is known of begins as
the mean of all. Word table, decoder and the decoder's bias change alike. Pre-training on text of the new kind should
follow (`init_from`). Shapes: V rows.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers
import torch
from torch import Tensor

from encodery.base.errors import InputError, SettingsError
from encodery.model.load import LoadedModel
from encodery.model.network import Model, model_of_state
from encodery.model.settings import ModelSettings
from encodery.surgery import Surgery, SurgeryResult
from encodery.tokens.pieces import normalised_pieces
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import EmbeddingMix, Transfer
from encodery.tokens.transfer.subword_mean import SubwordMean


@dataclass(frozen=True, kw_only=True)
class ReplaceVocabulary(Surgery):
    """`tokenizer`: the folder of the new one; or `words`: a file of words, one a line, that become pieces of a
    WordPiece vocabulary, behind all it has. One of the two. `begin`: how pieces begin that the model does not know."""

    tokenizer: str | None = None
    words: str | None = None
    transfer: Transfer = field(default_factory=SubwordMean)

    def __post_init__(self) -> None:
        if (self.tokenizer is None) == (self.words is None):
            raise SettingsError("vocabulary: give tokenizer=FOLDER or words=FILE, one of the two.")

    def operate(self, loaded: LoadedModel, generator: torch.Generator) -> SurgeryResult:
        old, settings = loaded.tokenizer, loaded.model.settings
        if self.tokenizer is not None:
            new = Tokenizer.load(self.tokenizer)
        else:
            new = _with_words(old, _words(Path(str(self.words))), settings.vocab_size)
        if new.fingerprint == old.fingerprint:
            raise SettingsError(f"{self.tokenizer or self.words}: this is the vocabulary that the model has.")
        lacking = [role for role in ("cls", "sep", "mask") if old.roles[role] is not None and new.roles[role] is None]
        if lacking:
            raise SettingsError(f"{self.tokenizer}: has no {lacking[0]} token, which the model's tokenizer has.")
        rows, counts = _rows(old, new, self.transfer)
        wider = dataclasses.replace(settings, vocab_size=new.vocab_size)
        state = dict(loaded.model.state_dict())
        for name in _by_word(settings):
            state[name] = _moved(state[name], rows, new.vocab_size, old.used_size)
        figures = {**counts, "vocab": new.vocab_size, "vocab_before": settings.vocab_size}
        return SurgeryResult(model_of_state(wider, state), new, figures)


def _rows(old: Tokenizer, new: Tokenizer, begin: Transfer) -> tuple[dict[int, EmbeddingMix], dict[str, int]]:
    """What each new id is made of (no ids: not known), and how many are kept, composed and unknown."""
    numbers = {piece: number for number, piece in normalised_pieces(old).items()}
    found = normalised_pieces(new)
    shared = {number: numbers[piece] for number, piece in found.items() if piece in numbers}
    kept = {n: old_id for n, old_id in shared.items() if begin.keeps_shared or found[n][0] in ("special", "bytes")}
    wanted = [number for number in found if number not in kept]
    mixes = begin.mixtures(old, new, shared, wanted)
    rows: dict[int, EmbeddingMix] = {number: mixes.get(number, ((), ())) for number in wanted}
    rows |= {number: ((old_id,), (1.0,)) for number, old_id in kept.items()}
    return rows, {"kept": len(kept), "composed": len(mixes), "unknown": len(wanted) - len(mixes)}


def _moved(tensor: Tensor, rows: dict[int, EmbeddingMix], vocab: int, used: int) -> Tensor:
    """(V old, …) → (vocab, …). Ids that stand for nothing get zeros, and the lowest of a bias."""
    real = tensor[:used]
    moved = tensor.new_zeros(vocab, *tensor.shape[1:])
    if tensor.dim() == 1:
        moved += real.min()
    kept = [(new, ids[0]) for new, (ids, _) in rows.items() if len(ids) == 1]
    places, sources = torch.tensor(kept, dtype=torch.int64).reshape(-1, 2).T
    moved[places] = tensor[sources]
    mean = real.mean(0)
    for new, (ids, shares) in rows.items():
        if len(ids) != 1:
            weights = torch.tensor(shares, dtype=tensor.dtype)
            moved[new] = torch.tensordot(weights, tensor[list(ids)], 1) if ids else mean
    return moved


def _by_word(settings: ModelSettings) -> list[str]:
    """Names of the tensors that have a row for each id."""
    with torch.device("meta"):
        one, other = (Model(dataclasses.replace(settings, vocab_size=settings.vocab_size + more)) for more in (0, 1))
    shapes = {name: tensor.shape for name, tensor in other.state_dict().items()}
    return [name for name, tensor in one.state_dict().items() if tensor.shape != shapes[name]]


def _words(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of words: {error}") from error
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise InputError(f"{path}: holds no words.")
    return found


def _with_words(old: Tokenizer, words: list[str], vocab: int) -> Tokenizer:
    """The tokenizer with `words` as pieces behind its own; its tables stay as they are where they have room."""
    spec = json.loads(old.backend.to_str())
    if spec["model"].get("type") != "WordPiece":
        raise SettingsError(
            f"vocabulary.words: this tokenizer is of the kind {spec['model'].get('type')}, whose pieces cannot be "
            "added to; train a new one on text with these words and give it as vocabulary.tokenizer."
        )
    known, number = spec["model"]["vocab"], old.used_size
    for word in words:
        normal = old.backend.normalizer.normalize_str(word) if old.backend.normalizer is not None else word
        parts = (
            old.backend.pre_tokenizer.pre_tokenize_str(normal) if old.backend.pre_tokenizer is not None else [normal]
        )
        if len(parts) != 1 or len(normal) > spec["model"].get("max_input_chars_per_word", 100):
            raise InputError(f"words: '{word}' is no single word to this tokenizer, which cuts it before it looks.")
        if normal not in known:
            known[normal] = number
            number += 1
    inner = tokenizers.Tokenizer.from_str(json.dumps(spec))
    return Tokenizer(inner, old.config, vocab if number <= vocab else None)
