"""Models on disk: `save_model` writes an artifact of kind "model", `load_model` reads one, or a folder of another
library.

The artifact has model.safetensors, golden.safetensors (computed again at load), tokenizer/, extra.safetensors (what an
imported checkpoint has beyond our model), modules/ (weights of what is used with the encoder: a task's head, a trained
pooling); the manifest has the model's settings, how to embed with it, and the labels.
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
from encodery.model.checkpoint import WEIGHTS, locate, read_json, read_tensors, write_tensors
from encodery.model.conversion import Origin
from encodery.model.imported_folder import import_folder
from encodery.model.network import Model, model_of_state
from encodery.model.settings import ModelSettings
from encodery.model.vocabulary import TOKENIZER_SOURCES, read_tokenizer
from encodery.tokens.tokenizer import Tokenizer

GOLDEN, EXTRA_TENSORS, TOKENIZER, MODULES = "golden.safetensors", "extra.safetensors", "tokenizer", "modules"
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

    `settings` has, if known, "recipe", "dense" (pooling, postprocess, max_length, prompts) and "labels". `artifact` is
    None for a folder of another library, `origin` for a model that was not imported.
    """

    path: Path
    model: Model
    settings: dict[str, Any] = field(default_factory=dict)
    artifact: Artifact | None = None
    origin: Origin | None = None
    tokenizer_path: Path | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read on first use. Raises `ArtifactError` if the model has none."""
        if self.tokenizer_path is None:
            raise ArtifactError(f"{self.path}: has no tokenizer.")
        return read_tokenizer(self.tokenizer_path, self.model.settings.vocab_size)

    def module_state(self, name: str) -> dict[str, Tensor]:
        """The weights that `save_model` wrote as `modules[name]`. Raises `ArtifactError` if there are none."""
        return read_tensors(_module_file(self.path, name))

    def modules(self) -> dict[str, dict[str, Tensor]]:
        """All weights that `save_model` wrote as `modules`."""
        names = sorted(path.stem for path in (self.path / MODULES).glob("*.safetensors"))
        return {name: self.module_state(name) for name in names if self.artifact is not None}


@dataclass(frozen=True, eq=False)
class Provenance:
    """What a model was made from: artifacts by their role, and the checkpoint that it was imported from, if any."""

    parents: Mapping[str, Artifact] = field(default_factory=dict)
    origin: Origin | None = None

    @staticmethod
    def of(loaded: LoadedModel, keep_origin: bool = False) -> Provenance:
        """That of a model made from `loaded`; `keep_origin`: whether it can still be written as that checkpoint."""
        parents = {} if loaded.artifact is None else {"model": Artifact.open(loaded.artifact.path)}
        return Provenance(parents, loaded.origin if keep_origin else None)


def save_model(
    folder: str | Path,
    model: Model,
    tokenizer: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    modules: Mapping[str, Mapping[str, Tensor]] | None = None,
    provenance: Provenance | None = None,
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write a model artifact.

    Args:
        folder: Where to write it.
        model: The model; its weights are stored in fp32, with golden outputs.
        tokenizer: A folder whose tokenizer files are copied.
        settings: Further settings of the manifest: "recipe", "dense" (pooling, postprocess, max_length, prompts),
            "labels".
        modules: Weights of what is used with the encoder, under names of the caller's choice
            (`LoadedModel.module_state`).
        provenance: What the model was made from.
        metrics: Metrics of the manifest.
        overwrite: Whether an artifact in `folder` is replaced.
    """
    provenance = provenance or Provenance()
    origin = provenance.origin
    state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in model.state_dict().items()}
    table = {**(settings or {}), "model": encode(model.settings)}
    if origin is not None:
        table["origin"] = origin.to_table()
    with create_artifact(folder, "model", table, provenance.parents, overwrite=overwrite) as draft:
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


def load_model(source: str | Path, *, verify: bool = True, checkpoint_format: str | None = None) -> LoadedModel:
    """Load a model in fp32, on the CPU and in evaluation mode.

    Args:
        source: A model artifact; a run, for its final model; a folder of Hugging Face or sentence-transformers; or a
            name on the hub.
        verify: Whether the SHA-256 of the files is checked and the golden outputs are computed again.
        checkpoint_format: The format of a folder of another library, which may be a dotted path outside the package
            (None: recognised by config.json).

    Raises `ArtifactError` naming what is wrong, and `InputError` if there is no such folder or name.
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
                f"{path}: is of kind '{kind}'; it must be a model, a run with a final model, or an export."
            )
    elif (path / "model" / MANIFEST).is_file():
        return _load_artifact(path / "model", verify)
    elif not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        _refuse_adapter(path)
        unfinished = " It looks like an unfinished run: resume it." if (path / "checkpoints").is_dir() else ""
        raise ArtifactError(f"{path}: holds no model: it has neither {MANIFEST} nor config.json.{unfinished}")
    imported = import_folder(path, checkpoint_format)
    return LoadedModel(path, imported.model, imported.embedding, None, imported.origin, _tokenizer_of(imported.base))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files of a tokenizer, and no others; tokenizer.json is made if it is missing.

    Raises `ArtifactError` if there is no tokenizer.
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


def _refuse_adapter(folder: Path) -> None:
    """Raise `ArtifactError` for a folder of the library PEFT, which has the weights of an adapter alone."""
    if (folder / "adapter_config.json").is_file():
        config = read_json(folder / "adapter_config.json")
        base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
        raise ArtifactError(
            f"{folder}: holds an adapter (adapter_config.json) without its model ({base or 'not named'}). "
            "Merge the two with the library that made it (PEFT: `merge_and_unload`), save the result, and give that "
            "folder."
        )


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
    extra = read_tensors(path / EXTRA_TENSORS) if (path / EXTRA_TENSORS).is_file() else {}
    return LoadedModel(
        path,
        model,
        settings,
        artifact,
        None if origin is None else Origin.of_table(origin, extra),
        _tokenizer_of(path / TOKENIZER),
    )


def _check_golden(path: Path, model: Model) -> None:
    apart = golden.drift(model, read_tensors(path / GOLDEN))
    if not apart <= golden.TOLERANCE:
        raise ArtifactError(
            f"{path / GOLDEN}: the model no longer computes what it did when it was saved (off by {apart:.1e}, "
            f"{golden.TOLERANCE:.0e} allowed). Its parts have changed since, or this machine computes wrongly."
        )
