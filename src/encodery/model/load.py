"""Models on disk: `save_model` writes an artifact of kind "model", `load_model` reads one, a run, or a foreign folder.

The artifact: model.safetensors, golden.safetensors (replayed at load), tokenizer/, rest.safetensors (what an imported
checkpoint had beyond our model), modules/ (weights of what stands on the encoder: a task's head, a trained pooling);
the model's settings, how to embed with it and the labels in the manifest.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encodery.base.artifact import MANIFEST, Artifact, create_artifact
from encodery.base.errors import ArtifactError, EncoderyError
from encodery.base.settings import decode, encode
from encodery.model import golden
from encodery.model.checkpoint import WEIGHTS, locate, read_tensors, write_tensors
from encodery.model.conversion import Origin
from encodery.model.imported_folder import import_folder
from encodery.model.network import Model, model_of_state
from encodery.model.settings import ModelSettings
from encodery.model.vocabulary import TOKENIZER_SOURCES, read_tokenizer
from encodery.tokens.tokenizer import Tokenizer

GOLDEN, EXTRA_TENSORS, TOKENIZER, MODULES = "golden.safetensors", "rest.safetensors", "tokenizer", "modules"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spm.model",
)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with what belongs to it.

    `settings` holds, where known, "recipe", "dense" (pooling, postprocess, max_length, prompts) and "labels".
    """

    path: Path
    model: Model
    settings: dict[str, Any] = field(default_factory=dict)
    artifact: Artifact | None = None
    origin: Origin | None = None
    tokenizer_path: Path | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read on first use. Raises `ArtifactError` where the model has none."""
        if self.tokenizer_path is None:
            raise ArtifactError(f"{self.path}: has no tokenizer.")
        return read_tokenizer(self.tokenizer_path, self.model.settings.vocab_size)

    def module_state(self, name: str) -> dict[str, Tensor]:
        """The weights that `save_model` was given as `modules[name]`. Raises `ArtifactError` where there are none."""
        return read_tensors(_module_file(self.path, name))

    def modules(self) -> dict[str, dict[str, Tensor]]:
        """All that `save_model` was given as `modules`; empty where it was nothing."""
        found = sorted(path.stem for path in (self.path / MODULES).glob("*.safetensors"))
        return {name: self.module_state(name) for name in found if self.artifact is not None}


def save_model(
    folder: str | Path,
    model: Model,
    tokenizer: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    modules: Mapping[str, Mapping[str, Tensor]] | None = None,
    origin: Origin | None = None,
    parents: Mapping[str, Artifact] | None = None,
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write a model artifact: weights in fp32, golden vectors, a copy of the `tokenizer` folder's files.

    `settings` are further manifest settings: "recipe", "dense" (pooling, postprocess, max_length, prompts), "labels".
    `modules` are the weights of what stands on the encoder, by names of the caller's choice (`Loaded.module_state`).
    """
    state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in model.state_dict().items()}
    table = {**(settings or {}), "model": encode(model.settings)}
    if origin is not None:
        table["origin"] = origin.to_table()
    with create_artifact(folder, "model", table, parents, overwrite=overwrite) as draft:
        draft.metrics.update(metrics or {})
        write_tensors(draft.path / WEIGHTS, state)
        write_tensors(draft.path / GOLDEN, golden.golden_outputs(model_of_state(model.settings, state)))
        if origin is not None and origin.extra_tensors:
            write_tensors(draft.path / EXTRA_TENSORS, origin.extra_tensors)
        for name, tensors in (modules or {}).items():
            _module_file(draft.path, name).parent.mkdir(exist_ok=True)
            write_tensors(_module_file(draft.path, name), dict(tensors))
        if tokenizer is not None:
            copy_tokenizer(Path(tokenizer), draft.path / TOKENIZER)
    return Artifact.open(folder, "model")


def load_model(source: str | Path, *, verify: bool = True) -> LoadedModel:
    """A model, in fp32 on the CPU, in evaluation mode, from what `source` is:

    a model artifact; a run (its final model); a folder of Hugging Face or sentence-transformers; or a name on the hub.
    `verify` checks the contents' SHA-256 and replays the golden vectors. Raises `ArtifactError` naming what is wrong.
    """
    path = locate(source)
    if (path / MANIFEST).is_file():
        kind = Artifact.open(path).manifest.kind
        if kind == "model":
            return _load_artifact(path, verify)
        if (path / "model" / MANIFEST).is_file():
            return _load_artifact(path / "model", verify)
        if not (path / "config.json").is_file():
            raise ArtifactError(
                f"{path}: is of kind '{kind}'; a model, a run with its final model, or an export is needed."
            )
    elif (path / "model" / MANIFEST).is_file():
        return _load_artifact(path / "model", verify)
    elif not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        unfinished = " It looks like a run that has not finished: resume it." if (path / "checkpoints").is_dir() else ""
        raise ArtifactError(f"{path}: holds no model: neither {MANIFEST} nor config.json is there.{unfinished}")
    imported = import_folder(path)
    return LoadedModel(path, imported.model, imported.embedding, None, imported.origin, _tokenizer_of(imported.base))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files that make a tokenizer; others in the folder stay behind. tokenizer.json is made where it lacks.

    Raises `ArtifactError` where there is none.
    """
    target.mkdir(parents=True, exist_ok=True)
    if not (source / "tokenizer.json").is_file():
        read_tokenizer(source).save(target)
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and not (target / name).exists():
            shutil.copyfile(source / name, target / name)


def _module_file(folder: Path, name: str) -> Path:
    return folder / MODULES / f"{name}.safetensors"


def _tokenizer_of(folder: Path) -> Path | None:
    return folder if any((folder / name).is_file() for name in TOKENIZER_SOURCES) else None


def _load_artifact(path: Path, verify: bool) -> LoadedModel:
    artifact = Artifact.open(path, "model")
    if verify:
        artifact.verify()
    settings = dict(artifact.manifest.settings)
    origin = settings.pop("origin", None)
    model_settings = decode(ModelSettings, settings.pop("model", {}), where=f"{path}: model")
    try:
        model = model_of_state(model_settings, read_tensors(path / WEIGHTS))
    except EncoderyError as error:
        raise ArtifactError(f"{path / WEIGHTS}: {error}") from error
    if verify:
        _check_golden(path, model)
    rest = read_tensors(path / EXTRA_TENSORS) if (path / EXTRA_TENSORS).is_file() else {}
    return LoadedModel(
        path,
        model,
        settings,
        artifact,
        None if origin is None else Origin.of_table(origin, rest),
        _tokenizer_of(path / TOKENIZER),
    )


def _check_golden(path: Path, model: Model) -> None:
    apart = golden.drift(model, read_tensors(path / GOLDEN))
    if not apart <= golden.TOLERANCE:
        raise ArtifactError(
            f"{path / GOLDEN}: the model no longer computes what it did when it was saved (off by {apart:.1e}, "
            f"{golden.TOLERANCE:.0e} allowed). Its parts have changed since, or this machine computes wrongly."
        )
