"""Another vocabulary for a trained model: that of a new tokenizer, or new words added to the old pieces.

A piece that both vocabularies have keeps its embedding, to the last bit. Others are initialised as `transfer` says
(`tokens/transfer/`): by default as the mean of the embeddings of the pieces that spelled them before
(arXiv:1905.07213); pieces about which nothing is known are initialised as the mean of all. Token embeddings, decoder
and the decoder's bias change alike. Pre-training on text of the new kind should follow (`init_from`).
Shapes: V vocabulary.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers
import torch
from torch import Tensor

from encodery.base.errors import InputError, SettingsError
from encodery.model.count import meta_model
from encodery.model.load import LoadedModel
from encodery.model.network import model_of_state
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch
from encodery.surgery import Surgery, SurgeryResult
from encodery.tokens.kind.wordpiece import add_characters
from encodery.tokens.pieces import normalised_pieces
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import EmbeddingMix, Transfer
from encodery.tokens.transfer.subword_mean import SubwordMean


@dataclass(frozen=True, kw_only=True)
class ReplaceVocabulary(Surgery):
    """Use it to move a model to another language or domain. `tokenizer`: the folder of the new one; or `words`: a file
    of words, one per line, that become pieces of a WordPiece vocabulary, after all it has. Give one of the two.
    `transfer`: how pieces are initialised that the model does not know.

        encodery model edit run --surgery vocabulary --out moved tokenizer=tokenizer
    """

    tokenizer: str | None = None
    words: str | None = None
    transfer: Transfer = field(default_factory=SubwordMean)

    def __post_init__(self) -> None:
        if (self.tokenizer is None) == (self.words is None):
            raise SettingsError("vocabulary: give tokenizer=FOLDER or words=FILE, one of the two.")

    def operate(self, loaded: LoadedModel, generator: torch.Generator, batches: Sequence[Batch] = ()) -> SurgeryResult:
        old, settings = loaded.tokenizer, loaded.model.settings
        if self.tokenizer is not None:
            new = Tokenizer.load(self.tokenizer)
        else:
            new = add_words(old, read_words(Path(str(self.words))), settings.vocab_size)
        if new.fingerprint == old.fingerprint:
            raise SettingsError(f"{self.tokenizer or self.words}: this is the vocabulary that the model has.")
        missing = [role for role in ("cls", "sep", "mask") if old.roles[role] is not None and new.roles[role] is None]
        if missing:
            raise SettingsError(f"{self.tokenizer}: has no {missing[0]} token, which the model's tokenizer has.")
        mixtures, counts = embedding_mixtures(old, new, self.transfer)
        state = dict(loaded.model.state_dict())
        for name in _vocabulary_tensors(settings):
            state[name] = move_rows(state[name], mixtures, new.vocab_size, old.used_size)
        metrics = {**counts, "vocab_size": new.vocab_size, "vocab_size_before": settings.vocab_size}
        wider = dataclasses.replace(settings, vocab_size=new.vocab_size)
        return SurgeryResult(model_of_state(wider, state), new, metrics)


def embedding_mixtures(
    old: Tokenizer, new: Tokenizer, transfer: Transfer
) -> tuple[dict[int, EmbeddingMix], dict[str, int]]:
    """Return the mixture of old ids for each new id (empty if nothing is known), and the numbers of ids that are kept,
    composed and unknown."""
    old_ids = {piece: number for number, piece in normalised_pieces(old).items()}
    pieces = normalised_pieces(new)
    shared = {number: old_ids[piece] for number, piece in pieces.items() if piece in old_ids}
    kept = {n: i for n, i in shared.items() if transfer.keeps_shared or pieces[n][0] in ("special", "bytes")}
    new_ids = [number for number in pieces if number not in kept]
    composed = transfer.mixtures(old, new, shared, new_ids)
    mixtures: dict[int, EmbeddingMix] = {number: composed.get(number, ((), ())) for number in new_ids}
    mixtures |= {number: ((old_id,), (1.0,)) for number, old_id in kept.items()}
    return mixtures, {"kept": len(kept), "composed": len(composed), "unknown": len(new_ids) - len(composed)}


def move_rows(tensor: Tensor, mixtures: dict[int, EmbeddingMix], vocab_size: int, used_size: int) -> Tensor:
    """Return (vocab_size, …) of (V, …): each row the mixture of old rows, an empty mixture being the mean of all.

    Ids without a mixture are zeros, or the lowest value of a bias. Only the first `used_size` rows count in the mean.
    """
    used = tensor[:used_size]
    moved = tensor.new_zeros(vocab_size, *tensor.shape[1:])
    if tensor.dim() == 1:
        moved += used.min()
    kept = [(new, ids[0]) for new, (ids, _) in mixtures.items() if len(ids) == 1]
    targets, sources = torch.tensor(kept, dtype=torch.int64).reshape(-1, 2).T
    moved[targets] = tensor[sources]
    mean = used.mean(0)
    for new, (ids, weights) in mixtures.items():
        if len(ids) != 1:
            row = torch.tensor(weights, dtype=tensor.dtype)
            moved[new] = torch.tensordot(row, tensor[list(ids)], 1) if ids else mean
    return moved


def read_words(path: Path) -> list[str]:
    """Return the words of a file, one per line, each once. Raises `InputError` for an unreadable or empty file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of words: {error}") from error
    words = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not words:
        raise InputError(f"{path}: holds no words.")
    return words


def add_words(old: Tokenizer, words: list[str], vocab_size: int) -> Tokenizer:
    """Return the tokenizer with `words` as pieces after its own; `vocab_size` stays if there is room.

    Raises `SettingsError` for a tokenizer that is no WordPiece, `InputError` for a word that it splits.
    """
    spec = json.loads(old.backend.to_str())
    if spec["model"].get("type") != "WordPiece":
        raise SettingsError(
            f"vocabulary.words: pieces cannot be added to this tokenizer, whose kind is {spec['model'].get('type')}; "
            "train a new one on text with these words and give it as vocabulary.tokenizer."
        )
    normalizer = old.backend.normalizer
    normalized = {word: word if normalizer is None else normalizer.normalize_str(word) for word in words}
    add_characters(spec, "".join("".join(normalized.values()).split()))
    splitter = tokenizers.Tokenizer.from_str(json.dumps(spec)).pre_tokenizer
    known, number = spec["model"]["vocab"], old.used_size
    for word, normal in normalized.items():
        parts = splitter.pre_tokenize_str(normal) if splitter is not None else [normal]
        if len(parts) != 1 or len(normal) > spec["model"].get("max_input_chars_per_word", 100):
            raise InputError(f"words: '{word}' is no single word to this tokenizer, which splits it.")
        if normal not in known:
            known[normal] = number
            number += 1
    backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
    return Tokenizer(backend, old.config, vocab_size if number <= vocab_size else None)


def _vocabulary_tensors(settings: ModelSettings) -> list[str]:
    """Names of the tensors that have a row for each id."""
    smaller, larger = (
        meta_model(dataclasses.replace(settings, vocab_size=settings.vocab_size + more)).state_dict() for more in (0, 1)
    )
    return [name for name, tensor in smaller.items() if tensor.shape != larger[name].shape]
