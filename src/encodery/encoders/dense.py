"""Runs an encoder over texts: tokenise, sort by length, pack to a budget of tokens, pool, finish, restore the order.

The result does not depend on which texts stand together, beyond rounding. arXiv:1908.10084 for mean pooling.
Shapes: N texts, T tokens of a batch, H width of the model, K width after finishing.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from encodery.base.errors import InputError, SettingsError
from encodery.base.machine import device as machine_device
from encodery.base.parts import name_of
from encodery.base.settings import decode, encode
from encodery.encoders import parallel, storage
from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.encoders.pooling.cls import CLS
from encodery.encoders.pooling.mean import Mean
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.settings import DenseSettings
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.runtimes.engine import InferenceEngine, PoolingMode
from encodery.runtimes.kind import Runtime
from encodery.runtimes.packed_encoder import accelerate, original_model
from encodery.tokens.windows import batches_by_length, parse_truncate, split_into_windows

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel
    from encodery.tokens.tokenizer import Tokenizer

BATCH_TOKENS = 2048
OTHERS = {
    "sparse": ("weights of words", "encodery.encoders.sparse.SparseEncoder"),
    "multi_vector": ("a vector for each token", "encodery.encoders.multi_vector.MultiVectorEncoder"),
}
"""What a model may be trained for instead, by the settings that are stored with it, and what reads it then."""
RUNTIME_BATCH_TOKENS = 8192  # At least so many at once where a runtime deals them to its own threads.
TEXTS_AT_ONCE = 4096  # Texts held at a time by `stream`.
CHARACTERS_AT_ONCE = 8 << 20
CUT_AT = 1 << 17  # Characters tokenised in one piece.


@dataclass(frozen=True)
class DenseEmbeddings:
    """`vectors` (N, K) float32 in the order of the texts; `tokens` (N,) that were read, special tokens included;
    `dropped` (N,) tokens that the truncation left out."""

    vectors: np.ndarray
    tokens: np.ndarray
    dropped: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)


class DenseEncoder:
    """An encoder with its tokenizer and embedding settings. The model is set to evaluation.

    `finishing` is given where a finish step of the settings has learnt something, `pooling` where the pooling has
    weights. Raises `SettingsError` where one is missing.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        settings: DenseSettings | None = None,
        finishing: PostProcessing | None = None,
        device: torch.device | str | None = None,
        pooling: PoolingModule | None = None,
    ) -> None:
        self.settings = settings or DenseSettings()
        self.device = torch.device(device) if device is not None else machine_device()
        self.model = first_layers(model, self.settings.layers).to(self.device).eval()
        self.tokenizer = tokenizer
        self.postprocessing = finishing or unfitted_postprocessing(self.settings.postprocess)
        self.pooling = (pooling or weightless_pooling(self.settings.pooling, self.model)).to(self.device).eval()
        self.runtime: Runtime | None = None
        self.engine: InferenceEngine | None = None
        self.max_length = min(self.settings.max_length or model.settings.max_length, model.settings.max_length)
        if self.max_length < 3:
            raise SettingsError(f"max_length = {self.max_length}: leaves no room beside the special tokens.")

    @classmethod
    def from_loaded(cls, loaded: LoadedModel, device: torch.device | str | None = None) -> DenseEncoder:
        """The embedder of a loaded model, as its stored settings have it. Raises `SettingsError` for a model that was
        trained to give a text something else than one vector."""
        for key, (what, reader) in OTHERS.items():
            if key in loaded.settings:
                raise SettingsError(f"{loaded.path}: gives a text {what}, not one vector. Read it with {reader}.of.")
        settings = decode(DenseSettings, loaded.settings.get("dense", {}), where=f"{loaded.path}: dense")
        if not storage.is_stored(loaded):
            return cls(loaded.model, loaded.tokenizer, settings, device=device)._quick()
        kept = loaded.module_state(storage.MODULE)
        pooling = settings.pooling.build(loaded.model.settings.shape)
        pooling.load_state_dict(storage.pooling_state(kept))
        finishing = storage.load_postprocessing(settings.postprocess, kept)
        embedder = cls(loaded.model, loaded.tokenizer, settings, finishing, device, pooling)
        storage.verify_golden(loaded, embedder.pool_batch, kept, embedder.device)
        return embedder._quick()

    def with_runtime(self, runtime: Runtime) -> DenseEncoder:
        """The same embedder, its model run by that runtime; what goes through `pooled` stays with the model itself.

        Raises `SettingsError` where the runtime cannot run the model, or gives no layers to a pooling that wants them.
        """
        if self.pooling.keep_layers:
            raise SettingsError(
                f"pooling = '{name_of(self.settings.pooling)}': wants every layer, a runtime gives the last one."
            )
        found = copy.copy(self)
        found.runtime, found.engine = runtime, runtime.build(original_model(self.model))
        return found

    def _quick(self) -> DenseEncoder:
        self.model = accelerate(self.model)
        return self

    @property
    def runtime_name(self) -> str:
        """The name of the runtime that computes its vectors."""
        if self.runtime is not None:
            return name_of(self.runtime)
        return "torch" if original_model(self.model) is self.model or self.pooling.keep_layers else "packed_fp32"

    @property
    def fingerprint(self) -> str:
        """Differs when any text could get another vector: that of the model, and the runtime where there is one."""
        if self.runtime is None:
            return self.model_fingerprint
        return hashlib.sha256(f"{self.model_fingerprint}{json.dumps(encode(self.runtime))}".encode()).hexdigest()[:32]

    @cached_property
    def model_fingerprint(self) -> str:
        """Over weights, tokenizer and settings, whatever runs them."""
        digest = hashlib.sha256(json.dumps([encode(self.settings), self.tokenizer.fingerprint]).encode())
        for name, tensor in sorted(self.model.encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        for _, tensor in sorted(self.pooling.state_dict().items()):
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        for state in self.postprocessing.states:
            for array in state.values():
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:32]

    @property
    def dimension(self) -> int:
        """Width K of a vector after finishing."""
        return self.postprocessing.output_dim(self.model.settings.width)

    @property
    def max_content_tokens(self) -> int:
        """Tokens of a text that fit the model, special tokens not counted."""
        return self.max_length - 2

    @property
    def prompts(self) -> dict[str, str]:
        """Name -> what is put before a text that is encoded under it."""
        return self.settings.prompts

    def token_offsets(self, text: str) -> np.ndarray:
        """The characters [begin, end) (n, 2) int64 of each token of a text, without special tokens."""
        return token_offsets(self.tokenizer, text)

    def encode(
        self,
        texts: Sequence[str],
        truncate: str = "error",
        batch_tokens: int = BATCH_TOKENS,
        prompt: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> DenseEmbeddings:
        """The vectors of all texts. Empty texts are legal.

        `truncate`: error, right, left or chunk (see `tokens/windows.py`); `batch_tokens`: tokens computed at once;
        `prompt`: name of a stored prompt; `progress` is called with the number of windows done after each batch.
        Raises `InputError` for a text that is too long under "error", and for what is no list of texts.
        """
        return self._encode(
            _checked(texts, 0), parse_truncate(truncate), batch_tokens, self.settings.prompt(prompt), progress
        )

    def stream(
        self,
        texts: Iterable[str],
        truncate: str = "error",
        batch_tokens: int = BATCH_TOKENS,
        prompt: str | None = None,
    ) -> Iterator[DenseEmbeddings]:
        """The same in pieces, in order, for texts without end: a few thousand are held at a time."""
        policy, before = parse_truncate(truncate), self.settings.prompt(prompt)
        first = 0
        for some in _pieces(texts):
            yield self._encode(_checked(some, first), policy, batch_tokens, before, None, first)
            first += len(some)

    def _encode(
        self,
        texts: Sequence[str],
        truncate: str,
        batch_tokens: int,
        before: str,
        progress: Callable[[int], None] | None,
        first: int = 0,
    ) -> DenseEmbeddings:
        if batch_tokens < 1:
            raise InputError(f"batch_tokens = {batch_tokens}: must be positive.")
        ids = self.tokenizer.encode_batch([before + text for text in texts] if before else list(texts))
        found, dropped = split_into_windows(ids, self.max_content_tokens, parse_truncate(truncate), first)
        owner = np.array([window.text for window in found], np.int64)
        lengths = np.array([len(window.ids) + 2 for window in found], np.int64)
        pooled = np.zeros((len(found), self.model.settings.width), np.float32)
        if self.engine is None:
            work = list(batches_by_length(lengths, parallel.batch_budget(batch_tokens, self.device)))
            parts = parallel.map_batches(
                lambda some: self.encode_windows([found[n].ids for n in some]), work, self.device
            )
        else:
            work = list(batches_by_length(lengths, max(batch_tokens, RUNTIME_BATCH_TOKENS)))
            parts = (self.encode_windows([found[n].ids for n in some]) for some in work)
        for numbers, part in zip(work, parts, strict=True):
            pooled[numbers] = part
            if progress is not None:
                progress(len(numbers))
        vectors = average_windows(pooled, owner, lengths, len(texts))
        vectors = self.postprocessing.apply(vectors)
        tokens = np.bincount(owner, weights=lengths, minlength=len(texts)).astype(np.int64)
        return DenseEmbeddings(vectors, tokens, dropped)

    def encode_windows(self, sequences: list[np.ndarray]) -> np.ndarray:
        """Pooled vectors (B, H), before finishing, of windows without their special tokens; in inference mode."""
        batch = pack_sequences(sequences, self.tokenizer.cls_id, self.tokenizer.sep_id)
        if self.engine is not None:
            return self._by_engine(self.engine, batch)
        batch = batch.to(self.device)
        vectors: np.ndarray = self.pool_batch(batch).float().cpu().numpy()
        return vectors

    def _by_engine(self, engine: InferenceEngine, batch: Batch) -> np.ndarray:
        ids, bounds = batch.ids.numpy(), batch.cu_seqlens.numpy()
        if self.runtime_pooling is not None:
            return engine.pooled(ids, bounds, self.runtime_pooling)
        return self.pool_output(
            Output(torch.from_numpy(engine.run(ids, bounds)).to(self.device)), batch.to(self.device)
        )

    @property
    def runtime_pooling(self) -> PoolingMode | None:
        """The pooling as runtimes have it; None where they have not."""
        if self.settings.pooling == Mean():
            return "mean"
        return "cls" if self.settings.pooling == CLS() else None

    def pool_output(self, output: Output, batch: Batch) -> np.ndarray:
        """What `pool` gives of a batch, from the encoder's output for it."""
        if self.engine is not None and self.runtime_pooling is not None:
            return self.engine.pool_hidden(
                output.hidden.cpu().numpy(), batch.cu_seqlens.cpu().numpy(), self.runtime_pooling
            )
        with torch.inference_mode():
            vectors: np.ndarray = self.pooling(output, batch).float().cpu().numpy()
        return vectors

    def pool_batch(self, batch: Batch) -> torch.Tensor:
        """Pooled vectors (B, H), before finishing, of a packed batch on the model's device."""
        output = self.model.encoder(batch, keep_layers=self.pooling.keep_layers)
        found: torch.Tensor = self.pooling(output, batch)
        return found


def token_offsets(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The characters [begin, end) (n, 2) int64 of each token of a text, without special tokens; long ones in pieces."""
    found = [np.zeros((0, 2), np.int64)]
    begin = 0
    while begin < len(text):
        end = len(text) if len(text) - begin <= CUT_AT else max(text.rfind(" ", begin, begin + CUT_AT), begin)
        end = end if end > begin else begin + CUT_AT
        found.append(tokenizer.encode_with_offsets(text[begin:end])[1].astype(np.int64) + begin)
        begin = end
    return np.concatenate(found)


def first_layers(model: Model, layers: int | None) -> Model:
    """The model with only its first blocks, which it shares with the one given; that one itself for None.

    Raises `SettingsError` for more layers than there are.
    """
    settings = model.settings
    if layers is None or layers == settings.depth:
        return model
    if not 1 <= layers < settings.depth:
        raise SettingsError(f"layers = {layers}: the model has {settings.depth}.")
    encoder, found = copy.copy(model.encoder), copy.copy(model)
    encoder._modules = {**model.encoder._modules, "blocks": model.encoder.blocks[:layers]}
    found._modules = {**model._modules, "encoder": encoder}
    found.settings = dataclasses.replace(settings, depth=layers)
    return found


def unfitted_postprocessing(steps: Sequence[PostProcess]) -> PostProcessing:
    """Finish steps that have learnt nothing. Raises `SettingsError` where one has to."""
    for step in steps:
        if type(step).fit is not PostProcess.fit:
            raise SettingsError(
                f"finish = '{name_of(step)}': learns from a sample of vectors, and nothing it learnt is stored with "
                "the model."
            )
    return PostProcessing(tuple(steps), tuple({} for _ in steps))


def weightless_pooling(pooling: Pooling, model: Model) -> PoolingModule:
    """A pooling without weights. Raises `SettingsError` where it has some, for they would be random."""
    module = pooling.build(model.settings.shape)
    if any(True for _ in module.parameters()):
        raise SettingsError(
            f"pooling = '{name_of(pooling)}': has weights, and none are stored with the model. Train it first."
        )
    return module


def pack_sequences(sequences: Sequence[np.ndarray], first: int, last: int) -> Batch:
    """A packed batch of `first` … `last` around each sequence, made without a loop over tokens."""
    lengths = np.array([len(ids) + 2 for ids in sequences], np.int64)
    ends = np.cumsum(lengths)
    ids = np.empty(int(ends[-1]), np.int64)
    edge = np.zeros(len(ids), bool)
    ids[ends - lengths], ids[ends - 1] = first, last
    edge[ends - lengths] = edge[ends - 1] = True
    ids[~edge] = np.concatenate(sequences)
    cu_seqlens = np.concatenate([[0], ends]).astype(np.int32)
    return Batch(torch.from_numpy(ids), torch.from_numpy(cu_seqlens), int(lengths.max()))


def average_windows(pooled: np.ndarray, owner: np.ndarray, lengths: np.ndarray, texts: int) -> np.ndarray:
    """Vectors of windows (W, H) to vectors of texts (N, H), weighted by the windows' lengths."""
    if len(owner) == texts:
        return pooled
    weights = lengths.astype(np.float64) / np.bincount(owner, weights=lengths, minlength=texts)[owner]
    vectors = np.zeros((texts, pooled.shape[1]))
    np.add.at(vectors, owner, pooled * weights[:, None])
    return vectors.astype(np.float32)


def _checked(texts: Sequence[str], first: int) -> Sequence[str]:
    if isinstance(texts, str | bytes):
        raise InputError("A list of texts is needed, not one text.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"Text {first + number} is no text but {type(text).__name__}.")
    return texts


def _pieces(texts: Iterable[str]) -> Iterator[list[str]]:
    some: list[str] = []
    characters = 0
    for text in texts:
        some.append(text)
        characters += len(text)
        if len(some) == TEXTS_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield some
            some, characters = [], 0
    if some:
        yield some
