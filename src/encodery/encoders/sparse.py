"""Sparse embeddings: a weight for each term of the vocabulary, most of them zero. arXiv:2107.05720 (SPLADE)

`terms` says which terms get a weight. "vocabulary": the masked-language-model head scores, for each token, the terms
that could take its place; a term's weight is the highest log(1 + relu(score)) over the tokens of the text. So a
text gets terms that it does not contain, and a term search finds it by them. "tokens": only the text's own tokens get a
weight, relu(w · state + b), and the highest one if a token occurs several times (arXiv:2106.14807, uniCOIL).
`query_encoding` says how queries are encoded. "encoder": like texts. "bow": a bag of words, each token with its count,
so that no model is run for a query (with terms = "tokens": arXiv:2108.08513, TILDEv2).
Shapes: N texts, T tokens of a batch, B sequences, V vocabulary, H width of the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.base.settings import decode, encode
from encodery.encoders import BATCH_TOKENS, QUERY, Role, storage
from encodery.encoders.embeddings import SparseEmbeddings
from encodery.encoders.model_encoder import ModelEncoder, StoredEncoder
from encodery.encoders.packing import pack_sequences
from encodery.encoders.text_windows import TextWindows
from encodery.model import golden
from encodery.model.digest import weights_digest
from encodery.model.network import Model
from encodery.model.shape import Batch
from encodery.runtimes.packed_encoder import accelerate
from encodery.tokens.windows import batches_by_length

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel
    from encodery.tokens.tokenizer import Tokenizer

KEY = "sparse"
SparseTerms = Literal["vocabulary", "tokens"]
QueryEncoding = Literal["encoder", "bow"]
INIT_STD = 0.02

TermWeights = tuple[np.ndarray, np.ndarray]
"""Term ids (n,) int32, rising, and their weights (n,) float32."""


@dataclass(frozen=True, kw_only=True)
class SparseSettings:
    """How a model's sparse embeddings are computed; stored with it as `sparse`. `terms`, `query_encoding`: see above;
    `max_length` and `prompts` as for dense embeddings; `keep`: the number of terms kept of a text, those of the
    highest weight; all if not given."""

    terms: SparseTerms = "vocabulary"
    query_encoding: QueryEncoding = "encoder"
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    keep: int | None = None


class TermHead(nn.Module):
    """Hidden states (T, H) → a weight ≥ 0 for each token (T,) float32. A new head gives every token a weight near 1,
    so that a score is the number of query tokens that the text contains."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.normal_(self.linear.weight, std=INIT_STD)
        nn.init.ones_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """See the class."""
        return torch.relu(self.scores(hidden))

    def scores(self, hidden: Tensor) -> Tensor:
        """The weights (T,) before negative ones are set to 0."""
        scores: Tensor = self.linear(hidden).float()[:, 0]
        return scores


class SparseEncoder(ModelEncoder):
    """A model with its tokenizer and the settings of its sparse embeddings. It needs a masked-language-model head, or,
    if only a text's own tokens get a weight, a `head` that was trained with it."""

    kind: ClassVar[str] = "sparse"
    symmetric: ClassVar[bool] = False

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        settings: SparseSettings | None = None,
        device: torch.device | str | None = None,
        head: TermHead | None = None,
    ) -> None:
        self.settings = settings or SparseSettings()
        super().__init__(model, tokenizer, self.settings.max_length, device)
        self.head = None if head is None else head.to(self.device).eval()
        self.regular_tokens = regular_tokens(tokenizer, model.settings.vocab_size).to(self.device)
        check_head(model, self.settings.terms, head)

    @classmethod
    def from_loaded(cls, loaded: LoadedModel, device: torch.device | str | None = None) -> SparseEncoder:
        """See `ModelEncoder`."""
        if KEY not in loaded.settings:
            raise SettingsError(f"{loaded.path}: was not trained for sparse embeddings (recipe splade).")
        settings = decode(SparseSettings, loaded.settings[KEY], where=f"{loaded.path}: {KEY}")
        if settings.terms == "vocabulary":
            return cls(loaded.model, loaded.tokenizer, settings, device)._accelerated()
        tensors, head = loaded.module_state(KEY), TermHead(loaded.model.settings.width)
        head.load_state_dict({name: tensor for name, tensor in tensors.items() if name != "golden"})
        encoder = cls(loaded.model, loaded.tokenizer, settings, device, head)
        storage.verify_golden(loaded, encoder.token_scores, tensors, encoder.device)
        return encoder._accelerated()

    def stored(self) -> StoredEncoder:
        """See `ModelEncoder`."""
        settings = {KEY: encode(self.settings)}
        if self.head is None:
            return StoredEncoder(settings, {})
        tensors = {name: tensor.detach().cpu() for name, tensor in self.head.state_dict().items()}
        inputs = golden.golden_outputs(self.model)
        tensors["golden"] = storage.golden_vectors(self.token_scores, inputs, self.device)
        return StoredEncoder(settings, {KEY: tensors})

    def _accelerated(self) -> SparseEncoder:
        self.model = accelerate(self.model)
        return self

    @property
    def prompts(self) -> Mapping[str, str]:
        """See `TextEncoder`."""
        return self.settings.prompts

    @property
    def dimension(self) -> int:
        """V."""
        return self.model.settings.vocab_size

    @property
    def fingerprint(self) -> str:
        """See `TextEncoder`."""
        states = [module.state_dict() for module in (self.model, self.head) if module is not None]
        return weights_digest(*states, prefix=f"{self.settings}{self.tokenizer.fingerprint}".encode())

    def encode(
        self,
        texts: Sequence[str],
        truncate: str = "error",
        batch_tokens: int = BATCH_TOKENS,
        prompt: str | None = None,
        progress: Callable[[int], None] | None = None,
        *,
        role: Role | None = None,
    ) -> SparseEmbeddings:
        """See `TextEncoder`. Texts are read as queries if `role` or `prompt` is "query", else as documents. A text in
        several windows (`truncate` = "chunk") has the highest weight of a term over its windows."""
        if QUERY in (role, prompt) and self.settings.query_encoding == "bow":
            return bag_of_words(self.tokenizer, texts)
        before = self.prompt_text(prompt, role)
        windows = TextWindows.from_texts(texts, self.tokenizer, self.max_content_tokens, truncate, before)
        terms: list[TermWeights] = [(np.zeros(0, np.int32), np.zeros(0, np.float32))] * len(windows)
        with torch.inference_mode():
            for numbers in batches_by_length(windows.lengths, batch_tokens):
                sequences = [windows.ids[number] for number in numbers]
                batch = pack_sequences(sequences, self.tokenizer.cls_id, self.tokenizer.sep_id).to(self.device)
                for number, weights in zip(numbers, self.weights(batch).cpu(), strict=True):
                    term_ids = weights.nonzero()[:, 0]
                    terms[number] = term_ids.to(torch.int32).numpy(), weights[term_ids].numpy()
                if progress is not None:
                    progress(len(numbers))
        return self._of_texts(terms, windows)

    def weights(self, batch: Batch) -> Tensor:
        """The term weights (B, V) of a packed batch on the model's device."""
        if self.head is None:
            return vocabulary_weights(self.model, batch)
        return term_weights(self.model, self.head, batch, self.regular_tokens)

    def token_scores(self, batch: Batch) -> Tensor:
        """The head's score (T,) of each token of a packed batch, before negative ones are set to 0."""
        assert self.head is not None
        scores: Tensor = self.head.scores(self.model.encoder(batch).hidden)
        return scores

    def _of_texts(self, terms: list[TermWeights], windows: TextWindows) -> SparseEmbeddings:
        """The embeddings of texts from the terms of their windows."""
        bounds = np.searchsorted(windows.owner, np.arange(len(windows.dropped) + 1))
        values = [self._strongest(_maximum(terms[start:stop])) for start, stop in itertools.pairwise(bounds)]
        embeddings = SparseEmbeddings.from_values(values)
        return SparseEmbeddings(
            embeddings.ends, embeddings.term_ids, embeddings.weights, windows.tokens, windows.dropped
        )

    def _strongest(self, terms: TermWeights) -> TermWeights:
        """The `keep` terms of the highest weight, in the order of their ids."""
        term_ids, weights = terms
        if self.settings.keep is None or len(term_ids) <= self.settings.keep:
            return terms
        kept = np.sort(np.argsort(-weights, kind="stable")[: self.settings.keep])
        return term_ids[kept], weights[kept]


def vocabulary_weights(model: Model, batch: Batch) -> Tensor:
    """The weights ≥ 0 (B, V) float32 of all terms for each sequence of a packed batch."""
    # log(1 + relu(·)) keeps the order, so it is computed once per sequence after the maximum, not once per token.
    return torch.log1p(torch.relu(vocabulary_scores(model, batch)))


def vocabulary_scores(model: Model, batch: Batch) -> Tensor:
    """The head's highest score (B, V) float32 of each term over the tokens of each sequence."""
    logits = model.mlm_head(model.encoder(batch).hidden, model.encoder).float()
    return torch.stack([part.amax(0) for part in logits.split(list(batch.layout.lengths))])


def term_weights(model: Model, head: TermHead, batch: Batch, regular: Tensor) -> Tensor:
    """The weights ≥ 0 (B, V) float32 of the tokens of each sequence of a packed batch; only those that are `regular`
    (V,) bool get one."""
    vocab_size, ids = model.settings.vocab_size, batch.ids.long()
    weights = head(model.encoder(batch).hidden) * regular[ids]
    flat_ids = batch.layout.sequence_ids * vocab_size + ids
    zeros = weights.new_zeros(len(batch) * vocab_size)
    maxima: Tensor = zeros.scatter_reduce(0, flat_ids, weights, "amax").view(len(batch), vocab_size)
    return maxima


def token_counts(batch: Batch, vocab_size: int, regular: Tensor) -> Tensor:
    """How often each `regular` token occurs (B, V) float32 in each sequence of a packed batch."""
    flat_ids = batch.layout.sequence_ids * vocab_size + batch.ids.long()
    zeros = torch.zeros(len(batch) * vocab_size, device=batch.ids.device)
    return zeros.index_add(0, flat_ids, regular[batch.ids.long()].float()).view(len(batch), vocab_size)


def bag_of_words(tokenizer: Tokenizer, texts: Sequence[str]) -> SparseEmbeddings:
    """The tokens of texts of any length, each with its count as weight; special tokens are left out."""
    sequences = tokenizer.encode_batch(list(texts))
    special = np.array(sorted(tokenizer.special_ids), np.int64)
    pairs = [np.unique(ids[~np.isin(ids, special)].astype(np.int32), return_counts=True) for ids in sequences]
    embeddings = SparseEmbeddings.from_values([(term_ids, counts.astype(np.float32)) for term_ids, counts in pairs])
    tokens = np.array([len(ids) for ids in sequences], np.int64)
    return SparseEmbeddings(
        embeddings.ends, embeddings.term_ids, embeddings.weights, tokens, np.zeros(len(sequences), np.int64)
    )


def regular_tokens(tokenizer: Tokenizer, vocab_size: int) -> Tensor:
    """Which tokens (V,) bool are not special. The unknown token is special too, since it can be any word."""
    mask = torch.ones(vocab_size, dtype=torch.bool)
    mask[sorted(number for number in tokenizer.special_ids if number < vocab_size)] = False
    return mask


def check_head(model: Model, terms: SparseTerms, head: nn.Module | None) -> None:
    """Raises `SettingsError` if the model lacks the head that computes the weights."""
    if terms == "vocabulary" and "mlm" not in model.heads:
        raise SettingsError(
            "terms = 'vocabulary': sparse embeddings are computed by the masked-language-model head, and this model "
            "has none."
        )
    if (terms == "tokens") != (head is not None):
        raise SettingsError(f"terms = '{terms}': {'needs' if head is None else 'does not use'} a separate term head.")


def _maximum(terms: list[TermWeights]) -> TermWeights:
    """The highest weight of each term over several windows."""
    if len(terms) == 1:
        return terms[0]
    term_ids = np.concatenate([ids for ids, _ in terms])
    weights = np.concatenate([values for _, values in terms])
    unique, inverse = np.unique(term_ids, return_inverse=True)
    highest = np.zeros(len(unique), np.float32)
    np.maximum.at(highest, inverse, weights)
    return unique, highest
