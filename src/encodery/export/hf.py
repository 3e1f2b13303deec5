"""A Hugging Face folder: config.json, model.safetensors, tokenizer, model card; read by stock classes, no remote code.

A model that was imported and not changed is written as it came, bit for bit. Any other goes through the first layout
of `model/hub/` that can hold it. What was written is read back and must compute what the model computes; where
`transformers` is installed, it is asked as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from encodery.base.artifact import Artifact, atomic_write, writing
from encodery.base.errors import SettingsError, nearest
from encodery.base.parts import find, name_of, names
from encodery.base.settings import encode
from encodery.export import Exported, Exporter
from encodery.export._card import card
from encodery.export._verify import check_peer, check_read_back, check_tokenizer
from encodery.model import golden
from encodery.model.checkpoint import WEIGHTS, write_tensors
from encodery.model.foreign import Origin, build, to_state
from encodery.model.heads.mlm import MLM
from encodery.model.hub import Door, Special, way_out
from encodery.model.load import GOLDEN, Loaded, copy_tokenizer
from encodery.model.network import Model

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class HF(Exporter):
    """`layout`: a door of `model/hub/` (None: the first that fits). `dtype`: of the weights (None: that of the imported
    file, else float32). `peer`: ask transformers, if installed. `title` and `license` are for the card."""

    layout: str | None = None
    dtype: Precision | None = None
    peer: bool = True
    title: str | None = None
    license: str | None = None

    def write(self, loaded: Loaded, folder: Path, overwrite: bool = False) -> Exported:
        if self.layout is not None and self.layout not in names(Door):
            known = names(Door)
            raise SettingsError(
                f"layout = '{self.layout}': no such layout.{nearest(self.layout, known)} Known: {', '.join(known)}."
            )
        model = _copy(loaded.model)
        kept, special = golden.make(model), _special(loaded)
        door, config, origin = self._plan(model, loaded.origin, special)
        dtype = self.dtype or ("float32" if origin is None else origin.dtype)
        if origin is None or dtype != origin.dtype:
            config = {k: v for k, v in config.items() if k not in ("dtype", "torch_dtype")} | {"dtype": dtype}
        parents = {"model": loaded.artifact} if loaded.artifact is not None else None
        settings = {"export": encode(self), "layout": name_of(door), "dtype": dtype}
        with writing(folder, "export", settings, parents, overwrite=overwrite) as draft:
            atomic_write(draft.path / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
            write_tensors(draft.path / WEIGHTS, _cast(to_state(door, config, model, origin), dtype))
            if loaded.tokenizer_path is not None:
                _write_tokenizer(loaded, origin, draft.path)
            write_tensors(draft.path / GOLDEN, kept)
            draft.figures["drift_read_back"] = check_read_back(draft.path, kept, dtype)
            if self.peer:
                draft.figures |= check_peer(draft.path, kept, dtype, config)
                draft.figures |= check_tokenizer(draft.path, loaded)
            text = card(loaded, folder, config, draft.figures, title=self.title, licence=self.license)
            atomic_write(draft.path / "README.md", text)
            figures = dict(draft.figures)
        return Exported(artifact=Artifact.open(folder, "export"), layout=name_of(door), figures=figures)

    def _plan(
        self, model: Model, origin: Origin | None, special: Special
    ) -> tuple[Door, dict[str, Any], Origin | None]:
        """The door, the config.json, and the origin where the model still is what was imported."""
        if origin is not None and self.layout in (None, origin.door):
            door = find(Door, origin.door)()
            head = model.settings.head
            tied = head.tied if isinstance(head, MLM) else True
            if door.settings(origin.config, head=head is not None, tied=tied) == model.settings:
                return door, origin.config, origin
        door = way_out(model.settings, special, self.layout)
        return door, door.config(model.settings, special), None


def _copy(model: Model) -> Model:
    """The model in fp32 on the CPU; the one given stays as and where it is."""
    state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in model.state_dict().items()}
    return build(model.settings, state)


def _special(loaded: Loaded) -> Special:
    """Ids of special tokens: the tokenizer's, else those of the imported configuration."""
    if loaded.tokenizer_path is None:
        config = {} if loaded.origin is None else loaded.origin.config
        first = config.get("cls_token_id", config.get("bos_token_id"))
        last = config.get("sep_token_id", config.get("eos_token_id"))
        return Special(pad=config.get("pad_token_id"), cls=first, sep=last)
    found = {}
    for role in ("pad", "cls", "sep", "mask"):
        name = loaded.tokenizer.roles[role]
        found[role] = None if name is None else loaded.tokenizer.inner.token_to_id(name)
    return Special(**found)


def _cast(state: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    wanted: torch.dtype = getattr(torch, dtype)
    return {name: t.to(wanted) if t.is_floating_point() else t for name, t in state.items()}


def _write_tokenizer(loaded: Loaded, origin: Origin | None, folder: Path) -> None:
    assert loaded.tokenizer_path is not None
    if origin is not None:
        copy_tokenizer(loaded.tokenizer_path, folder)
        return
    settings = loaded.model.settings
    loaded.tokenizer.save(folder, max_length=settings.max_length, segments=settings.segments > 1)
