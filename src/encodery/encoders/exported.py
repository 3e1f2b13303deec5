"""Texts to vectors from an export for another engine (`encodery model export --format onnx`, `openvino`), without
PyTorch.

Equals `Embedder` on the runtime of that name with `folder` set. Nothing here, nor below it, imports PyTorch.
Shapes: N texts, W windows, T tokens, H width of the model, K width after finishing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError, InputError, nearest
from encodery.base.parts import part_names
from encodery.base.settings import decode, parse_overrides
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocessing import PostProcessing
from encodery.runtimes.engine import InferenceEngine, PoolingMode
from encodery.runtimes.kind import Runtime
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import batches_by_length, parse_truncate, split_into_windows

POSTPROCESS_FILE = "finish.safetensors"
RUNTIME_LAYOUTS = ("onnx", "openvino")  # Exports that are engines, and the runtimes of the same names.
AT_ONCE = 8192  # Tokens that the engine is given to deal to its threads.


class ExportedEncoder:
    """An export, ready to encode. `threads`: None for as many as the process may use.

    Raises `ArtifactError` for a folder that is no such export, `MissingExtra` where its engine is not installed.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        artifact = Artifact.open(folder, "export")
        settings = artifact.manifest.settings
        self.engine = _engine(artifact, threads)
        self.tokenizer = Tokenizer.load(artifact.path, self.engine.limits.vocab_size)
        embed: dict[str, Any] = settings["dense"]
        self.pooling: PoolingMode = "cls" if _name(embed["pooling"]) == "cls" else "mean"
        self.postprocessing = PostProcessing.load(
            [decode(PostProcess, step, where=f"{folder}: finish") for step in embed["postprocess"]],
            artifact.path / POSTPROCESS_FILE,
        )
        self.prompts: dict[str, str] = embed["prompts"]
        self.max_length: int = embed["max_length"]

    @property
    def dimension(self) -> int:
        """Width K of a vector."""
        return self.postprocessing.output_dim(self.engine.limits.width)

    @property
    def max_content_tokens(self) -> int:
        """Tokens of a text that fit the model, special tokens not counted."""
        return self.max_length - 2

    def encode(self, texts: Sequence[str], truncate: str = "error", prompt: str | None = None) -> np.ndarray:
        """Vectors (N, K) float32 in the order of the texts; `truncate` and `prompt` as in `Embedder.encode`."""
        if isinstance(texts, str | bytes) or not all(isinstance(text, str) for text in texts):
            raise InputError("A list of texts is needed.")
        if prompt is not None and prompt not in self.prompts:
            raise InputError(f"The model has no prompt '{prompt}'.{nearest(prompt, self.prompts)}")
        before = "" if prompt is None else self.prompts[prompt]
        found, _ = split_into_windows(
            self.tokenizer.encode_batch([before + t for t in texts]), self.max_content_tokens, parse_truncate(truncate)
        )
        lengths = np.array([len(window.ids) + 2 for window in found], np.int64)
        pooled = np.zeros((len(found), self.engine.limits.width), np.float32)
        for some in batches_by_length(lengths, AT_ONCE):
            pooled[some] = self._pool([found[number].ids for number in some])
        owner = np.array([window.text for window in found], np.int64)
        summed = np.zeros((len(texts), pooled.shape[1]))
        np.add.at(summed, owner, pooled * lengths[:, None])
        total = np.bincount(owner, weights=lengths, minlength=len(texts))
        return self.postprocessing.apply((summed / total[:, None]).astype(np.float32))

    def _pool(self, sequences: list[np.ndarray]) -> np.ndarray:
        first, last = np.array([self.tokenizer.cls_id]), np.array([self.tokenizer.sep_id])
        ids = np.concatenate([part for row in sequences for part in (first, row, last)])
        bounds = np.cumsum([0, *(len(row) + 2 for row in sequences)])
        return self.engine.pooled(ids, bounds, self.pooling)


def parse_runtime(name: str) -> Runtime:
    """The runtime of that name, such as "packed_int8" or, with settings, "torch,precision=bf16"; or, given the folder
    of an export, that of its engine.

    Raises `SettingsError` with the nearest name, `ArtifactError` for a folder of another kind.
    """
    if name in part_names(Runtime) or not Path(name).is_dir():
        of, *settings = name.split(",")
        return decode(Runtime, {"is": of, **parse_overrides(settings)}, where="runtime")
    return decode(Runtime, {"is": _layout(Artifact.open(name, "export")), "folder": name}, where="runtime")


def _layout(artifact: Artifact) -> str:
    layout = artifact.manifest.settings.get("format")
    if layout not in RUNTIME_LAYOUTS:
        raise ArtifactError(
            f"{artifact.path}: is an export of layout '{layout}'; {' or '.join(RUNTIME_LAYOUTS)} is needed."
        )
    return str(layout)


def _engine(artifact: Artifact, threads: int | None) -> InferenceEngine:
    runtime: Any = decode(Runtime, {"is": _layout(artifact), "threads": threads}, where="runtime")
    engine: InferenceEngine = runtime.open(artifact.path)
    return engine


def _name(part: str | dict[str, Any]) -> str:
    return part if isinstance(part, str) else str(part["is"])
