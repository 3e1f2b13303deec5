"""Folders of Hugging Face and sentence-transformers, read as our models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base.errors import ArtifactError, UserError
from encodery.model.checkpoint import read_json, read_state
from encodery.model.conversion import Origin, format_of, from_checkpoint
from encodery.model.network import Model
from encodery.model.sentence_modules import read_sentence_modules


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """A model read from a folder of another library.

    `model` is in fp32 on the CPU. `embedding` says how to embed with it: {"dense": settings}, or {} where the folder
    does not say. `origin` is what is needed to write it back. `base` is the folder of the weights and the tokenizer.
    """

    model: Model
    embedding: dict[str, Any]
    origin: Origin
    base: Path


def import_folder(folder: Path, checkpoint_format: str | None = None) -> ImportedModel:
    """Read a folder with config.json and safetensors in a checkpoint format (None: as config.json states).

    From a sentence-transformers folder the pooling, normalisation, length and prompts are read too. Raises
    `ArtifactError` for damaged or missing files and `SettingsError` for an unsupported configuration, both naming the
    folder.
    """
    base, embedding = read_sentence_modules(folder)
    try:
        config = read_json(base / "config.json")
        if not isinstance(config, dict):
            raise ArtifactError(f"{base / 'config.json'}: must hold a JSON object, not {type(config).__name__}.")
        model, origin = from_checkpoint(format_of(config, checkpoint_format), config, read_state(base))
    except UserError as error:
        raise type(error)(f"{folder}: {error}") if str(folder) not in str(error) else error from error
    return ImportedModel(model, embedding, origin, base)
