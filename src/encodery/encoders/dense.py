"""Dense embeddings: one vector for each text, pooled from the hidden states of its tokens. arXiv:1908.10084

Windows of texts are sorted by length, packed into batches of `batch_tokens` and pooled (`single_vector.py` does the
rest). Shapes: T tokens of a batch, B sequences, H width of the model, K dimension after post-processing.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import decode, encode
from encodery.encoders import storage
from encodery.encoders.model_encoder import StoredEncoder
from encodery.encoders.packing import pack_sequences
from encodery.encoders.pooling import Pooling, PoolingModule
from encodery.encoders.pooling.cls import CLS
from encodery.encoders.pooling.mean import Mean
from encodery.encoders.postprocessing import PostProcessing, unfitted_postprocessing
from encodery.encoders.settings import DenseSettings
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.encoders.text_windows import TextWindows
from encodery.model import golden
from encodery.model.digest import weights_digest
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.runtimes.engine import InferenceEngine, PoolingMode
from encodery.runtimes.kind import Runtime
from encodery.runtimes.packed_encoder import accelerate, original_model
from encodery.tokens.windows import batches_by_length

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel
    from encodery.tokens.tokenizer import Tokenizer

RUNTIME_BATCH_TOKENS = 8192  # Tokens of a batch, at least, for a runtime that divides it among its own threads.


ASSUMPTION = "mean pooling and vectors of unit length, since the folder has neither modules.json nor a pooling"


@functools.cache
def _report_assumption(folder: str) -> None:
    """Log once for each folder that its way to embed is assumed."""
    logging.getLogger(__name__).warning("%s: %s are assumed.", folder, ASSUMPTION)


class DenseEncoder(SingleVectorEncoder):
    """A model with its tokenizer and the settings of its dense embeddings.

    `postprocessing` is needed if a step of `settings.postprocess` is fitted to a sample, `pooling` if the pooling has
    weights. Raises `SettingsError` if one of them is missing. The attribute `assumption` says how a folder of another
    library that does not state how to embed is read; it is None otherwise.
    """

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
        first, steps = first_layers(model, self.settings.layers), self.settings.postprocess
        postprocessing = postprocessing or unfitted_postprocessing(steps)
        super().__init__(first, tokenizer, self.settings.max_length, postprocessing, device)
        self.pooling = (pooling or weightless_pooling(self.settings.pooling, self.model)).to(self.device).eval()
        self.assumption: str | None = None
        self.engine: InferenceEngine | None = None
        self._runtime: Runtime | None = None

    @classmethod
    def from_loaded(cls, loaded: LoadedModel, device: torch.device | str | None = None) -> DenseEncoder:
        """See `ModelEncoder`."""
        from encodery.encoders.loading import encoder_name

        name = encoder_name(loaded.settings)
        if name != storage.MODULE:
            raise SettingsError(
                f"{loaded.path}: was trained for {name} embeddings, not for vectors pooled from hidden states. Open it "
                "with encodery.encoders.loading.load_encoder."
            )
        settings = decode(DenseSettings, loaded.settings.get(name, {}), where=f"{loaded.path}: {name}")
        if not storage.is_stored(loaded):
            encoder = cls(loaded.model, loaded.tokenizer, settings, device=device)
            if loaded.artifact is None and name not in loaded.settings:
                encoder.assumption = ASSUMPTION
                _report_assumption(str(loaded.path))
            return encoder._accelerated()
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
        return StoredEncoder({storage.MODULE: encode(self.settings)}, {storage.MODULE: tensors})

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
        encoder._runtime, encoder.engine = runtime, runtime.build(original_model(self.model))
        return encoder

    def _accelerated(self) -> DenseEncoder:
        self.model = accelerate(self.model)
        return self

    @property
    def runtime(self) -> Runtime | None:
        """See `TextEncoder`."""
        return self._runtime

    @property
    def runtime_name(self) -> str:
        """See `SingleVectorEncoder`: "packed_fp32" also if the model itself runs in the compiled engine."""
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
    def prompts(self) -> Mapping[str, str]:
        """See `TextEncoder`."""
        return self.settings.prompts

    def encode_batches(self, windows: TextWindows, batch_tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `SingleVectorEncoder`. A runtime divides a batch among its own threads, so its batches are larger."""
        if self.engine is None:
            yield from super().encode_batches(windows, batch_tokens)
            return
        for numbers in batches_by_length(windows.lengths, max(batch_tokens, RUNTIME_BATCH_TOKENS)):
            yield numbers, self.encode_windows([windows.ids[n] for n in numbers])

    def encode_windows(self, sequences: list[np.ndarray]) -> np.ndarray:
        """See `SingleVectorEncoder`."""
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


def weightless_pooling(pooling: Pooling, model: Model) -> PoolingModule:
    """The module of a pooling without weights. Raises `SettingsError` if it has weights, for they would be random."""
    module = pooling.build(model.settings.shape)
    if any(True for _ in module.parameters()):
        raise SettingsError(
            f"pooling = '{name_of(pooling)}': has weights, and none are stored with the model. Train it first."
        )
    return module
