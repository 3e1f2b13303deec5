"""Reads checkpoint folders of other libraries: safetensors, one file or shards, also from the hub. Never a pickle."""

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
    """Read a JSON file. Raises `ArtifactError` naming the file if it is missing or damaged."""
    if not path.is_file():
        raise ArtifactError(f"{path}: missing.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. Raises `ArtifactError` naming the file if it is damaged."""
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: damaged or incomplete: {error}") from error


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file; tensors must not share memory with one another."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(plain, path, metadata={"format": "pt"})
    path.chmod(0o644)


def read_state(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint folder, from one file or from the shards that an index lists.

    Raises `ArtifactError` if there are none, if a shard is missing or damaged, or if there is only a pickle; then the
    message says how to convert it.
    """
    if (folder / WEIGHTS).is_file():
        return read_tensors(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
    if pickles:
        config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
        cls, out = next(iter(config.get("architectures") or ()), "AutoModel"), f"{folder}-safetensors"
        raise ArtifactError(
            f"{folder / pickles[0]}: is a pickle, which can run code when it is read; only safetensors are supported. "
            f'To convert it with transformers into another folder: python -c "from transformers import {cls} as M, '
            f"AutoTokenizer as T; M.from_pretrained('{folder}').save_pretrained('{out}'); "
            f"T.from_pretrained('{folder}').save_pretrained('{out}')\""
        )
    raise ArtifactError(f"{folder}: has neither {WEIGHTS} nor {INDEX}.")


def _read_shards(folder: Path) -> dict[str, Tensor]:
    """Read all shards that the index lists, and check that they hold the tensors that it assigns to them."""
    shard_of: dict[str, str] = read_json(folder / INDEX).get("weight_map", {})
    state: dict[str, Tensor] = {}
    for shard in sorted(set(shard_of.values())):
        if not (folder / shard).is_file() or Path(shard).name != shard:
            raise ArtifactError(f"{folder / shard}: missing, although {INDEX} names it.")
        state |= read_tensors(folder / shard)
    missing = sorted(set(shard_of) - set(state))
    if missing:
        name = missing[0]
        raise ArtifactError(f"{folder / shard_of[name]}: has no tensor '{name}', which {INDEX} assigns to it.")
    return state


def locate(source: str | Path) -> Path:
    """Return a local folder: `source` itself, or a copy of the hub's model of that name, downloaded once.

    Raises `InputError` naming the source if there is neither.
    """
    path = Path(source)
    if path.is_dir():
        return path
    name = str(source)
    if path.exists():
        raise InputError(f"{path}: is a file, but a model is a folder with config.json and {WEIGHTS}.")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        raise InputError(f"{path}: there is no such folder.")
    try:
        hub = require("huggingface_hub", "hub")
    except MissingExtra as error:
        raise InputError(f"'{name}': there is no such folder. To download it from the hub: {error}") from error
    try:
        return Path(hub.snapshot_download(name, allow_patterns=FILES))
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"'{name}': there is no such folder, and the hub gave no model of that name ({reason}). "
            f"Without a network, give a local folder with config.json, {WEIGHTS} and tokenizer.json."
        ) from error
