"""How a sentence-transformers folder embeds: its modules, pooling, length and prompts as our embedding settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from encodery.base.errors import SettingsError
from encodery.model.checkpoint import read_json

_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weighted",
    "pooling_mode_lasttoken": "lasttoken",
}
_UNLIMITED = 1 << 30
"""Tokenizers without a maximum length store a number far above this one."""


def read_sentence_modules(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the transformer and {"dense": pooling, postprocess, max_length, prompts}.

    A folder without modules.json but with the folder of a pooling (`1_Pooling`) is a transformer with this pooling; one
    without either has {}. Raises `SettingsError` for a module that is not supported.
    """
    modules = _modules(folder)
    if not modules:
        return folder, {}
    base, settings, postprocess = folder, dict[str, Any](), list[dict[str, str]]()
    for module in modules:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        place = folder / str(module.get("path", "")).replace("\\", "/")  # Some were written on Windows.
        if kind == "Transformer":
            base = place
            settings |= _max_length(place)
        elif kind == "Pooling":
            settings["pooling"] = {"is": _pooling(place)}
        elif kind == "Normalize":
            postprocess.append({"is": "normalise"})
        else:
            raise SettingsError(
                f"{folder / 'modules.json'}: module '{kind}' is not supported; Transformer, Pooling and Normalize are."
            )
    return base, {"dense": settings | {"postprocess": postprocess, "prompts": _prompts(folder)}}


def _modules(folder: Path) -> list[dict[str, Any]]:
    """The entries of modules.json, or those that the folders of modules stand for."""
    if (folder / "modules.json").is_file():
        return list(read_json(folder / "modules.json"))
    poolings = sorted(path.parent.name for path in folder.glob("[0-9]_Pooling/config.json"))
    if not poolings:
        return []
    return [{"type": "Transformer", "path": ""}, *({"type": "Pooling", "path": name} for name in poolings)]


def _pooling(place: Path) -> str:
    """The name of the pooling part that a Pooling module's config.json describes."""
    config = read_json(place / "config.json")
    named = config.get("pooling_mode")
    modes = [name for key, name in _POOLINGS.items() if config.get(key)]
    if named is not None:
        modes = [named] if isinstance(named, str) else list(named)
        modes = [_POOLINGS.get(f"pooling_mode_{mode}_tokens", mode) for mode in modes]
    if len(modes) != 1 or config.get("include_prompt", True) is not True:
        value = f"modes {modes}" if len(modes) != 1 else "include_prompt = false"
        raise SettingsError(
            f"{place / 'config.json'}: pooling with {value} is not supported; one mode over all tokens is."
        )
    return str(modes[0])


def _max_length(base: Path) -> dict[str, Any]:
    """The longest input in tokens, from the sentence configuration, otherwise from the tokenizer's."""
    sentence, tokenizer = (_read_optional(base / f"{name}_config.json") for name in ("sentence_bert", "tokenizer"))
    lowercases = '"lowercase": true' in json.dumps(_read_optional(base / "tokenizer.json"))
    if sentence.get("do_lower_case") and not lowercases:
        raise SettingsError(
            f"{base / 'sentence_bert_config.json'}: do_lower_case = true, but the tokenizer does not lower-case."
        )
    for value in (sentence.get("max_seq_length"), tokenizer.get("model_max_length")):
        if isinstance(value, int) and value < _UNLIMITED:
            return {"max_length": value}
    return {}


def _read_optional(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or {} where the file does not exist."""
    table: dict[str, Any] = read_json(path) if path.is_file() else {}
    return table


def _prompts(folder: Path) -> dict[str, str]:
    """The prompts by name. Raises `SettingsError` for a default prompt, which texts would get without being asked."""
    path = folder / "config_sentence_transformers.json"
    config = _read_optional(path)
    if config.get("default_prompt_name"):
        raise SettingsError(
            f"{path}: default_prompt_name = {config['default_prompt_name']!r} is not supported; set it to null and "
            "name the prompt when encoding."
        )
    return {name: text for name, text in (config.get("prompts") or {}).items() if text}
