"""Static embeddings: a text is the mean of its token embeddings, and no layer is run.

The weights of tokens by their rarity are part of the embeddings (`static_distillation.py`, which makes such models).
Special tokens do not count, and word order has no effect. The vectors are those of `dense.py` for a model of depth 0
with a mean over the tokens between the special ones; only a text without tokens gets zeros.
Shapes: W windows, T tokens of a batch, B sequences, V vocabulary, H width of the model, K dimension after
post-processing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import decode, encode
from encodery.encoders import storage
from encodery.encoders.model_encoder import StoredEncoder
from encodery.encoders.postprocessing import PostProcessing, unfitted_postprocessing
from encodery.encoders.settings import StaticSettings
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.encoders.text_windows import TextWindows
from encodery.model import golden
from encodery.model.digest import weights_digest
from encodery.model.network import Model
from encodery.model.shape import Batch

if TYPE_CHECKING:
    from typing import Self

    from encodery.model.load import LoadedModel
    from encodery.runtimes.kind import Runtime
    from encodery.tokens.tokenizer import Tokenizer

KEY = "static"
LOOKUP_TOKENS = 1 << 13  # Computed at once, at least: they take no memory but that of their ids.
COMPARED_TOKENS = 64  # Of the vocabulary, at most, whose hidden states must be their embeddings.


class StaticEncoder(SingleVectorEncoder):
    """A model of depth 0, of which only the token embeddings are used, with its tokenizer.

    Use it where speed matters more than word order: `encodery embed distill-static MODEL --out FOLDER` makes one.

        encoder = load_encoder(load_model("quick"))
        encoder.encode(["The captain opened the letter."]).vectors  # (1, K)

    `postprocessing` is needed if a step of `settings.postprocess` is fitted to a sample. Raises `SettingsError` if it
    is missing, or if the model does more than to look up token embeddings.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        settings: StaticSettings | None = None,
        postprocessing: PostProcessing | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_static(model)
        self.settings = settings or StaticSettings()
        postprocessing = postprocessing or unfitted_postprocessing(self.settings.postprocess)
        super().__init__(model, tokenizer, self.settings.max_length, postprocessing, device)

    @classmethod
    def from_loaded(cls, loaded: LoadedModel, device: torch.device | str | None = None) -> Self:
        """See `ModelEncoder`."""
        if KEY not in loaded.settings:
            raise SettingsError(f"{loaded.path}: is not a static model; encodery embed distill-static makes one of it.")
        settings = decode(StaticSettings, loaded.settings[KEY], where=f"{loaded.path}: {KEY}")
        tensors = loaded.module_state(KEY)
        steps = storage.load_postprocessing(settings.postprocess, tensors, KEY)
        encoder = cls(loaded.model, loaded.tokenizer, settings, steps, device)
        storage.verify_golden(loaded, encoder.pool_batch, tensors, encoder.device, KEY)
        return encoder

    def stored(self) -> StoredEncoder:
        """See `ModelEncoder`."""
        inputs = golden.golden_outputs(self.model)
        tensors = storage.postprocess_tensors(self.postprocessing)
        tensors["golden"] = storage.golden_vectors(self.pool_batch, inputs, self.device)
        return StoredEncoder({KEY: encode(self.settings)}, {KEY: tensors})

    def with_runtime(self, runtime: Runtime) -> Self:
        """See `SingleVectorEncoder`."""
        raise SettingsError(
            f"runtime = '{name_of(runtime)}': a static model has no layers that a runtime could run. Use it without a "
            "runtime."
        )

    @property
    def fingerprint(self) -> str:
        """See `TextEncoder`."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        seed = json.dumps([KEY, encode(self.settings), self.tokenizer.fingerprint])
        tensors = storage.postprocess_tensors(self.postprocessing)
        return weights_digest(self.model.encoder.state_dict(), tensors, prefix=seed.encode())

    @property
    def prompts(self) -> Mapping[str, str]:
        """See `TextEncoder`."""
        return self.settings.prompts

    def encode_batches(self, windows: TextWindows, batch_tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `SingleVectorEncoder`. Small batches would cost more than their lookups."""
        return super().encode_batches(windows, max(batch_tokens, LOOKUP_TOKENS))

    def encode_windows(self, sequences: list[np.ndarray]) -> np.ndarray:
        """See `SingleVectorEncoder`."""
        ids = np.concatenate(sequences).astype(np.int64)
        starts = np.cumsum([0, *map(len, sequences[:-1])])
        vectors: np.ndarray = self._means(torch.from_numpy(ids), torch.from_numpy(starts)).cpu().numpy()
        return vectors

    def pool_batch(self, batch: Batch) -> Tensor:
        """Means (B, H), before post-processing, over all tokens of the sequences of a packed batch."""
        return self._means(batch.ids.long(), batch.cu_seqlens[:-1].long())

    def _means(self, ids: Tensor, starts: Tensor) -> Tensor:
        """The mean token embeddings (B, H) float32 of ids (T,), of which a sequence begins at each start (B,)."""
        table = self.model.encoder.token_embeddings.detach()
        return F.embedding_bag(ids.to(self.device), table, starts.to(self.device), mode="mean").float()


@torch.inference_mode()
def check_static(model: Model) -> None:
    """Raises `SettingsError` unless the hidden states of the model are its token embeddings."""
    table = model.encoder.token_embeddings
    if model.settings.depth == 0:
        count = min(COMPARED_TOKENS, model.settings.max_length)
        ids = torch.linspace(0, len(table) - 1, count, device=table.device).long()
        bounds = torch.tensor([0, len(ids)], dtype=torch.int32, device=table.device)
        hidden = model.eval().encoder(Batch(ids, bounds, len(ids))).hidden
        if hidden.shape == table[ids].shape and torch.equal(hidden, table[ids]):
            return
    raise SettingsError(
        f"static: the model has {model.settings.depth} layers, or positions or a norm of its embeddings; a static "
        "encoder only looks up token embeddings. Use dense embeddings, or make a static model of it with "
        "encodery embed distill-static."
    )
