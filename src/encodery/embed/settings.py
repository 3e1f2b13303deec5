"""How a model's hidden states become its embeddings: pooling, finish, prompts. Stored with the model.

A folder in sentence-transformers' layout says the same in `modules.json` and beside it; both are read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from encodery.base.errors import ArtifactError, InputError, nearest
from encodery.base.settings import decode
from encodery.embed.finish import Finish
from encodery.embed.finish.normalise import Normalise
from encodery.embed.pooling import Pooling
from encodery.embed.pooling.cls import CLS
from encodery.embed.pooling.mean import Mean

MODULES = "modules.json"


@dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    """`max_length`: longest sequence with its special tokens, the model's own if not given. `prompts`: name -> text
    put before every text that is encoded under that name."""

    pooling: Pooling = field(default_factory=Mean)
    finish: tuple[Finish, ...] = (Normalise(),)
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)

    def prompt(self, name: str | None) -> str:
        """The prompt of that name, empty for None. Raises `InputError` with the nearest name."""
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(self.prompts) or "none"
            raise InputError(f"The model has no prompt '{name}'.{nearest(name, self.prompts)} Known: {known}.")
        return self.prompts[name]


def settings_of(folder: Path, stored: Mapping[str, Any]) -> EmbedSettings:
    """The settings of a model: the table `embed` among those stored with it, else a sentence-transformers layout in
    its folder, else the defaults (mean over all tokens, unit length)."""
    if "embed" in stored:
        return decode(EmbedSettings, stored["embed"], where=f"{folder}: embed")
    return _sentence_transformers(folder) if (folder / MODULES).is_file() else EmbedSettings()


def _sentence_transformers(folder: Path) -> EmbedSettings:
    """Raises `ArtifactError` for a module or a pooling mode that has no counterpart here."""
    pooling: Pooling = Mean()
    finish: list[Finish] = []
    max_length = None
    for module in _json(folder / MODULES):
        kind, place = str(module["type"]).rsplit(".", 1)[-1], folder / str(module.get("path", ""))
        if kind == "Transformer":
            file = place / "sentence_bert_config.json"
            max_length = _json(file).get("max_seq_length") if file.is_file() else None
        elif kind == "Pooling":
            pooling = _pooling(place / "config.json")
        elif kind == "Normalize":
            finish.append(Normalise())
        else:
            raise ArtifactError(f"{folder / MODULES}: the module '{kind}' has no counterpart here.")
    file = folder / "config_sentence_transformers.json"
    prompts = _json(file).get("prompts") or {} if file.is_file() else {}
    return EmbedSettings(pooling=pooling, finish=tuple(finish), max_length=max_length, prompts=prompts)


def _pooling(file: Path) -> Pooling:
    table = _json(file)
    modes = {
        key.removeprefix("pooling_mode_") for key, value in table.items() if key.startswith("pooling_mode_") and value
    }
    modes |= {table["pooling_mode"]} if isinstance(table.get("pooling_mode"), str) else set()
    if modes <= {"mean", "mean_tokens"}:
        return Mean()
    if modes <= {"cls", "cls_token"}:
        return CLS()
    raise ArtifactError(f"{file}: pooling by {', '.join(sorted(modes))} has no counterpart here. Known: mean, cls.")


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: damaged: {error}") from error
