"""Dense embeddings from an export for another engine (`encodery model export onnx`, `openvino`), without PyTorch.

Equals `DenseEncoder` on the runtime of the same name with `folder` set. Neither this module nor anything it imports
imports PyTorch. Shapes: N texts, W windows, T tokens, H width of the model, K dimension after post-processing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from encodery.base.artifact import Artifact
from encodery.base.errors import ArtifactError
from encodery.base.parts import part_names
from encodery.base.settings import decode, parse_overrides
from encodery.encoders import Role, TextEncoder
from encodery.encoders.embeddings import DenseEmbeddings
from encodery.encoders.postprocess import PostProcess
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.text_windows import TextWindows
from encodery.runtimes.engine import InferenceEngine, PoolingMode
from encodery.runtimes.kind import Runtime
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import batches_by_length

POSTPROCESS_FILE = "postprocess.safetensors"
RUNTIME_LAYOUTS = ("onnx", "openvino")  # Exports that an engine can run; the runtimes have the same names.
BATCH_TOKENS = 8192  # Tokens of a batch, which the engine divides among its threads.


class ExportedEncoder(TextEncoder):
    """An export, ready to encode. `threads`: of the engine; None for all that the process may use.

    Raises `ArtifactError` for a folder that is not such an export, `MissingExtra` if its engine is not installed.
    """

    kind: ClassVar[str] = "dense"

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        artifact = Artifact.open(folder, "export")
        self.engine = _engine(artifact, threads)
        self.tokenizer = Tokenizer.load(artifact.path, self.engine.limits.vocab_size)
        settings: dict[str, Any] = artifact.manifest.settings["dense"]
        self.pooling: PoolingMode = "cls" if _part_name(settings["pooling"]) == "cls" else "mean"
        steps = [decode(PostProcess, step, where=f"{folder}: postprocess") for step in settings["postprocess"]]
        self.postprocessing = PostProcessing.load(steps, artifact.path / POSTPROCESS_FILE)
        self.max_length = int(settings["max_length"])
        self._prompts: dict[str, str] = settings["prompts"]
        self._fingerprint = artifact.manifest.fingerprint

    @property
    def prompts(self) -> Mapping[str, str]:
        """See `TextEncoder`."""
        return self._prompts

    @property
    def dimension(self) -> int:
        """K."""
        return self.postprocessing.output_dim(self.engine.limits.width)

    @property
    def fingerprint(self) -> str:
        """That of the export."""
        return self._fingerprint

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
        before = self.prompt_text(prompt, role)
        windows = TextWindows.from_texts(texts, self.tokenizer, self.max_content_tokens, truncate, before)
        pooled = np.zeros((len(windows), self.engine.limits.width), np.float32)
        for numbers in batches_by_length(windows.lengths, batch_tokens):
            pooled[numbers] = self._pool([windows.ids[number] for number in numbers])
            if progress is not None:
                progress(len(numbers))
        return DenseEmbeddings(self.postprocessing.apply(windows.average(pooled)), windows.tokens, windows.dropped)

    def _pool(self, sequences: list[np.ndarray]) -> np.ndarray:
        """Pooled vectors (B, H) of windows without their special tokens."""
        first, last = np.array([self.tokenizer.cls_id]), np.array([self.tokenizer.sep_id])
        ids = np.concatenate([part for sequence in sequences for part in (first, sequence, last)])
        cu_seqlens = np.cumsum([0, *(len(sequence) + 2 for sequence in sequences)])
        return self.engine.pooled(ids, cu_seqlens, self.pooling)


def parse_runtime(name: str) -> Runtime:
    """The runtime called `name`, such as "packed_int8" or, with settings, "torch,precision=bf16"; for the folder of an
    export, the runtime of its engine.

    Raises `SettingsError` with the nearest name, `ArtifactError` for a folder of another kind.
    """
    if name in part_names(Runtime) or not Path(name).is_dir():
        part, *settings = name.split(",")
        return decode(Runtime, {"is": part, **parse_overrides(settings)}, where="runtime")
    return decode(Runtime, {"is": _layout(Artifact.open(name, "export")), "folder": name}, where="runtime")


def _layout(artifact: Artifact) -> str:
    layout = artifact.manifest.settings.get("format")
    if layout not in RUNTIME_LAYOUTS:
        raise ArtifactError(
            f"{artifact.path}: is an export to '{layout}', which no engine here runs; {' or '.join(RUNTIME_LAYOUTS)} "
            "is needed."
        )
    return str(layout)


def _engine(artifact: Artifact, threads: int | None) -> InferenceEngine:
    runtime: Any = decode(Runtime, {"is": _layout(artifact), "threads": threads}, where="runtime")
    engine: InferenceEngine = runtime.open(artifact.path)
    return engine


def _part_name(part: str | dict[str, Any]) -> str:
    return part if isinstance(part, str) else str(part["is"])
