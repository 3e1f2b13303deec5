"""Checkpoint folders as others write them: safetensors, one file or several; names on the hub. Never a pickle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from encodery.base.errors import ArtifactError, InputError, MissingExtra, UserError
from encodery.base.extras import require

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*/config.json"]


def read_json(path: Path) -> Any:
    """A JSON file. Raises `ArtifactError` naming it when it is missing or damaged."""
    if not path.is_file():
        raise ArtifactError(f"{path}: missing.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file. Raises `ArtifactError` naming it when it is damaged."""
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: damaged or incomplete: {error}") from error


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file of contiguous CPU tensors, none sharing memory with another."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(plain, path, metadata={"format": "pt"})
    path.chmod(0o644)


def read_state(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint folder, from one file or from the shards of an index.

    Raises `ArtifactError`: none there, a shard missing or damaged, or only a pickle, with how to convert it.
    """
    if (folder / WEIGHTS).is_file():
        return read_tensors(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
    if pickles:
        raise ArtifactError(
            f"{folder / pickles[0]}: a pickle can run code when it is read, so only safetensors are. To convert it "
            f'where transformers is installed: python -c "from transformers import AutoModelForMaskedLM as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )
    raise ArtifactError(f"{folder}: has neither {WEIGHTS} nor {INDEX}.")


def _read_shards(folder: Path) -> dict[str, Tensor]:
    places: dict[str, str] = read_json(folder / INDEX).get("weight_map", {})
    state: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if not (folder / shard).is_file() or Path(shard).name != shard:
            raise ArtifactError(f"{folder / shard}: missing; {INDEX} names it.")
        state |= read_tensors(folder / shard)
    absent = sorted(set(places) - set(state))
    if absent:
        raise ArtifactError(f"{folder / places[absent[0]]}: has no tensor '{absent[0]}', which {INDEX} places there.")
    return state


def locate(source: str | Path) -> Path:
    """A folder on this machine: `source` itself, or what the hub has under that name, fetched once.

    Raises `InputError` naming the source where neither is there.
    """
    path = Path(source)
    if path.is_dir():
        return path
    name = str(source)
    if path.exists():
        raise InputError(f"{path}: is a file; a model is a folder with config.json and {WEIGHTS}.")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        raise InputError(f"{path}: no such folder.")
    try:
        hub = require("huggingface_hub", "hub")
    except MissingExtra as error:
        raise InputError(f"'{name}': no such folder. To fetch a model of that name: {error}") from error
    try:
        return Path(hub.snapshot_download(name, allow_patterns=FILES))
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"'{name}': no such folder, and no model of that name could be fetched from the hub ({reason}). Without a "
            f"network, give a local folder that holds config.json, {WEIGHTS} and tokenizer.json."
        ) from error
