"""Dense embeddings: one vector for each text, pooled from the hidden states of its tokens. arXiv:1908.10084

Texts are tokenised, sorted by length, packed into batches of `batch_tokens`, pooled, post-processed and put back into
their order. A text's vector does not depend on the other texts of a call, beyond rounding.
Shapes: N texts, T tokens of a batch, B sequences, H width of the model, K dimension after post-processing.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from encodery.base.errors import InputError, SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import decode, encode
from encodery.encoders import BATCH_TOKENS, Role, parallel, storage
from encodery.encoders.embeddings import DenseEmbeddings
from encodery.encoders.model_encoder import ModelEncoder, StoredEncoder
from encodery.encoders.packing import pack_sequences
from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.encoders.pooling.cls import CLS
from encodery.encoders.pooling.mean import Mean
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.settings import DenseSettings
from encodery.encoders.text_windows import TextWindows, check_texts, token_offsets
from encodery.model import golden
from encodery.model.digest import weights_digest
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.runtimes.engine import InferenceEngine, PoolingMode
from encodery.runtimes.kind import Runtime
from encodery.runtimes.packed_encoder import accelerate, original_model
from encodery.tokens.windows import batches_by_length, parse_truncate

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel
    from encodery.tokens.tokenizer import Tokenizer

RUNTIME_BATCH_TOKENS = 8192  # Tokens of a batch, at least, for a runtime that divides it among its own threads.
TEXTS_AT_ONCE = 4096  # Texts that `stream` holds at a time.
CHARACTERS_AT_ONCE = 8 << 20


class DenseEncoder(ModelEncoder):
    """A model with its tokenizer and the settings of its dense embeddings.

    `postprocessing` is needed if a step of `settings.postprocess` is fitted to a sample, `pooling` if the pooling has
    weights. Raises `SettingsError` if one of them is missing.
    """

    kind: ClassVar[str] = "dense"

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        settings: DenseSettings | None = None,
        postprocessing: PostProcessing | None = None,
        device: torch.device | str | None = None,
        pooling: PoolingModule | None = None,
    ) -> None:
        self.settings = settings or DenseSettings()
        self._whole_model = model
        super().__init__(first_layers(model, self.settings.layers), tokenizer, self.settings.max_length, device)
        self.postprocessing = postprocessing or unfitted_postprocessing(self.settings.postprocess)
        self.pooling = (pooling or weightless_pooling(self.settings.pooling, self.model)).to(self.device).eval()
        self.runtime: Runtime | None = None
        self.engine: InferenceEngine | None = None
        if self.max_length < 3:
            raise SettingsError(
                f"max_length = {self.max_length}: leaves no room for a token between the two special tokens; "
                "at least 3 is needed."
            )

    @classmethod
    def from_loaded(cls, loaded: LoadedModel, device: torch.device | str | None = None) -> DenseEncoder:
        """See `ModelEncoder`."""
        from encodery.encoders.loading import kind_of

        kind = kind_of(loaded.settings)
        if kind != cls.kind:
            raise SettingsError(
                f"{loaded.path}: was trained for {kind} embeddings, not for one vector per text. Open it with "
                "encodery.encoders.loading.load_encoder."
            )
        settings = decode(DenseSettings, loaded.settings.get(cls.kind, {}), where=f"{loaded.path}: {cls.kind}")
        if not storage.is_stored(loaded):
            return cls(loaded.model, loaded.tokenizer, settings, device=device)._accelerated()
        tensors = loaded.module_state(storage.MODULE)
        pooling = settings.pooling.build(loaded.model.settings.shape)
        pooling.load_state_dict(storage.pooling_state(tensors))
        postprocessing = storage.load_postprocessing(settings.postprocess, tensors)
        encoder = cls(loaded.model, loaded.tokenizer, settings, postprocessing, device, pooling)
        storage.verify_golden(loaded, encoder.pool_batch, tensors, encoder.device)
        return encoder._accelerated()

    def stored(self) -> StoredEncoder:
        """See `ModelEncoder`."""
        tensors = storage.module_tensors(self.pooling, self.postprocessing)
        inputs = golden.golden_outputs(self._whole_model)
        tensors["golden"] = storage.golden_vectors(self.pool_batch, inputs, self.device)
        return StoredEncoder({self.kind: encode(self.settings)}, {storage.MODULE: tensors})

    def with_runtime(self, runtime: Runtime) -> DenseEncoder:
        """The same encoder with its model run by `runtime`; `pool_batch` still runs the model itself.

        Raises `SettingsError` if the runtime cannot run the model, or if the pooling needs every layer.
        """
        if self.pooling.keep_layers:
            raise SettingsError(
                f"pooling = '{name_of(self.settings.pooling)}': needs the output of every layer, and a runtime gives "
                "that of the last one only. Run the model without a runtime."
            )
        encoder = copy.copy(self)
        encoder.runtime, encoder.engine = runtime, runtime.build(original_model(self.model))
        return encoder

    def _accelerated(self) -> DenseEncoder:
        self.model = accelerate(self.model)
        return self

    @property
    def runtime_name(self) -> str:
        """The name of the runtime that computes the embeddings."""
        if self.runtime is not None:
            return name_of(self.runtime)
        in_torch = original_model(self.model) is self.model or self.pooling.keep_layers
        return "torch" if in_torch else "packed_fp32"

    @property
    def fingerprint(self) -> str:
        """Of the model and, if there is one, the runtime; see `TextEncoder`."""
        if self.runtime is None:
            return self.model_fingerprint
        return hashlib.sha256(f"{self.model_fingerprint}{json.dumps(encode(self.runtime))}".encode()).hexdigest()[:32]

    @property
    def model_fingerprint(self) -> str:
        """Over weights, tokenizer and settings, whatever runtime is used."""
        return self._model_fingerprint

    @cached_property
    def _model_fingerprint(self) -> str:
        seed = json.dumps([encode(self.settings), self.tokenizer.fingerprint])
        tensors = storage.module_tensors(self.pooling, self.postprocessing)
        return weights_digest(self.model.encoder.state_dict(), tensors, prefix=seed.encode())

    @property
    def dimension(self) -> int:
        """K, after post-processing."""
        return self.postprocessing.output_dim(self.model.settings.width)

    @property
    def prompts(self) -> Mapping[str, str]:
        """See `TextEncoder`."""
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
        *,
        role: Role | None = None,
    ) -> DenseEmbeddings:
        """See `TextEncoder`."""
        check_texts(texts)
        return self._encode(texts, truncate, batch_tokens, self.prompt_text(prompt, role), progress)

    def stream(
        self,
        texts: Iterable[str],
        truncate: str = "error",
        batch_tokens: int = BATCH_TOKENS,
        prompt: str | None = None,
    ) -> Iterator[DenseEmbeddings]:
        """`encode` for an unbounded stream of texts: the embeddings in order, a few thousand texts at a time."""
        policy, before = parse_truncate(truncate), self.prompt_text(prompt)
        first_index = 0
        for part in _parts(texts):
            yield self._encode(part, policy, batch_tokens, before, None, first_index)
            first_index += len(part)

    def _encode(
        self,
        texts: Sequence[str],
        truncate: str,
        batch_tokens: int,
        prompt: str,
        progress: Callable[[int], None] | None,
        first_index: int = 0,
    ) -> DenseEmbeddings:
        if batch_tokens < 1:
            raise InputError(f"batch_tokens = {batch_tokens}: must be at least 1.")
        windows = TextWindows.from_texts(texts, self.tokenizer, self.max_content_tokens, truncate, prompt, first_index)
        pooled = np.zeros((len(windows), self.model.settings.width), np.float32)
        if self.engine is None:
            batches = list(batches_by_length(windows.lengths, parallel.batch_budget(batch_tokens, self.device)))
            results = parallel.map_batches(
                lambda numbers: self.encode_windows([windows.ids[n] for n in numbers]), batches, self.device
            )
        else:
            batches = list(batches_by_length(windows.lengths, max(batch_tokens, RUNTIME_BATCH_TOKENS)))
            results = (self.encode_windows([windows.ids[n] for n in numbers]) for numbers in batches)
        for numbers, vectors in zip(batches, results, strict=True):
            pooled[numbers] = vectors
            if progress is not None:
                progress(len(numbers))
        return DenseEmbeddings(self.postprocessing.apply(windows.average(pooled)), windows.tokens, windows.dropped)

    def encode_windows(self, sequences: list[np.ndarray]) -> np.ndarray:
        """Pooled vectors (B, H), before post-processing, of windows without their special tokens."""
        batch = pack_sequences(sequences, self.tokenizer.cls_id, self.tokenizer.sep_id)
        if self.engine is not None:
            return self._run_engine(self.engine, batch)
        vectors: np.ndarray = self.pool_batch(batch.to(self.device)).float().cpu().numpy()
        return vectors

    def _run_engine(self, engine: InferenceEngine, batch: Batch) -> np.ndarray:
        ids, cu_seqlens = batch.ids.numpy(), batch.cu_seqlens.numpy()
        if self.runtime_pooling is not None:
            return engine.pooled(ids, cu_seqlens, self.runtime_pooling)
        hidden = torch.from_numpy(engine.run(ids, cu_seqlens)).to(self.device)
        return self.pool_output(Output(hidden), batch.to(self.device))

    @property
    def runtime_pooling(self) -> PoolingMode | None:
        """The pooling as runtimes compute it; None if they cannot."""
        if self.settings.pooling == Mean():
            return "mean"
        return "cls" if self.settings.pooling == CLS() else None

    def pool_output(self, output: Output, batch: Batch) -> np.ndarray:
        """The vectors (B, H) that `encode_windows` gives, from the encoder's output for the batch."""
        if self.engine is not None and self.runtime_pooling is not None:
            hidden, cu_seqlens = output.hidden.cpu().numpy(), batch.cu_seqlens.cpu().numpy()
            return self.engine.pool_hidden(hidden, cu_seqlens, self.runtime_pooling)
        with torch.inference_mode():
            vectors: np.ndarray = self.pooling(output, batch).float().cpu().numpy()
        return vectors

    def pool_batch(self, batch: Batch) -> torch.Tensor:
        """Pooled vectors (B, H), before post-processing, of a packed batch on the model's device."""
        output = self.model.encoder(batch, keep_layers=self.pooling.keep_layers)
        vectors: torch.Tensor = self.pooling(output, batch)
        return vectors


def first_layers(model: Model, layers: int | None) -> Model:
    """The model with its first `layers` blocks only, which share their weights with `model`; `model` itself for None.

    Raises `SettingsError` for more layers than the model has.
    """
    settings = model.settings
    if layers is None or layers == settings.depth:
        return model
    if not 1 <= layers < settings.depth:
        raise SettingsError(f"layers = {layers}: the model has {settings.depth} layers.")
    encoder, shallow = copy.copy(model.encoder), copy.copy(model)
    encoder.groups = model.encoder.groups[:layers]
    encoder._modules = {**model.encoder._modules, "blocks": model.encoder.blocks[: max(encoder.groups) + 1]}
    shallow._modules = {**model._modules, "encoder": encoder}
    shallow.settings = settings.with_depth(layers)
    return shallow


def unfitted_postprocessing(steps: Sequence[PostProcess]) -> PostProcessing:
    """Post-processing whose steps need no sample. Raises `SettingsError` if one of them does."""
    for step in steps:
        if type(step).fit is not PostProcess.fit:
            raise SettingsError(
                f"postprocess = '{name_of(step)}': must be fitted to a sample of vectors, and nothing fitted is stored "
                "with the model."
            )
    return PostProcessing(tuple(steps), tuple({} for _ in steps))


def weightless_pooling(pooling: Pooling, model: Model) -> PoolingModule:
    """The module of a pooling without weights. Raises `SettingsError` if it has weights, for they would be random."""
    module = pooling.build(model.settings.shape)
    if any(True for _ in module.parameters()):
        raise SettingsError(
            f"pooling = '{name_of(pooling)}': has weights, and none are stored with the model. Train it first."
        )
    return module


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of at most `TEXTS_AT_ONCE` texts and about `CHARACTERS_AT_ONCE` characters."""
    part: list[str] = []
    characters = 0
    for text in texts:
        part.append(text)
        characters += len(text)
        if len(part) == TEXTS_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield part
            part, characters = [], 0
    if part:
        yield part
