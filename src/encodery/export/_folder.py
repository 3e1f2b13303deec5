"""The files of a Hugging Face folder: config.json, weights, tokenizer, golden vectors, model card; read back.

Shared by the exports that are such a folder with something beside it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from encodery.base.artifact import Draft, atomic_write
from encodery.base.errors import SettingsError, nearest
from encodery.base.parts import find_part, name_of, part_names
from encodery.export._card import card
from encodery.export._heads import OUTPUTS, ExportedHead, held
from encodery.export._verify import check_peer, check_read_back, check_tokenizer
from encodery.finetune.artifact import FineTuned
from encodery.model import golden
from encodery.model.checkpoint import WEIGHTS, write_tensors
from encodery.model.conversion import Origin, exportable_format, to_checkpoint
from encodery.model.format_types import SpecialTokenIds
from encodery.model.formats import CheckpointFormat
from encodery.model.heads.mlm import MLMHead
from encodery.model.load import GOLDEN, LoadedModel, copy_tokenizer
from encodery.model.network import Model, model_of_state

POOLER = "pooler."
Precision = Literal["float32", "float16", "bfloat16"]


class FolderExport:
    """What will be written of a model, decided before anything is: layout, configuration, precision.

    `bare`: the encoder alone, whatever head it has. Raises `SettingsError` naming the settings that no layout can hold.
    """

    def __init__(self, loaded: LoadedModel, layout: str | None, dtype: Precision | None, bare: bool = False) -> None:
        if layout is not None and layout not in part_names(CheckpointFormat):
            known = part_names(CheckpointFormat)
            raise SettingsError(
                f"layout = '{layout}': no such layout.{nearest(layout, known)} Known: {', '.join(known)}."
            )
        self.bare = bare
        self.model = _copy(loaded.model, bare)
        self.loaded = dataclasses.replace(loaded, model=self.model)
        self.kept = golden.golden_outputs(self.model)
        self.held: ExportedHead | None = None
        origin = None if bare else loaded.origin
        self.door, self.config, self.origin = _door(self.model, layout, origin, _special(loaded))
        self.dtype: str = dtype or ("float32" if self.origin is None else self.origin.dtype)
        if self.origin is None or self.dtype != self.origin.dtype:
            self.config = {k: v for k, v in self.config.items() if k not in ("dtype", "torch_dtype")}
            self.config["dtype"] = self.dtype

    def put_on(self, tuned: FineTuned) -> None:
        """Put the head of a task on the encoder. Raises `SettingsError` where no stock class of the layout holds it."""
        self.held = held(tuned, self.model, self.kept, self.door)
        self.config = {**self.config, **self.held.config}
        self.kept[OUTPUTS] = self.held.outputs

    @property
    def layout(self) -> str:
        """The layout's name."""
        return name_of(self.door)

    def write(self, draft: Draft, peer: bool) -> None:
        """Write the files and their drifts; `peer` asks transformers. Raises `ArtifactError` where outputs differ."""
        folder = draft.path
        atomic_write(folder / "config.json", json.dumps(self.config, indent=2, ensure_ascii=False) + "\n")
        state = to_checkpoint(self.door, self.config, self.model, self.origin)
        if self.held is not None:
            state = {f"{self.door.prefix}{name}": tensor for name, tensor in state.items()} | self.held.tensors
        elif self.origin is None and self.model.settings.head is None and POOLER in self.door.unused_tensors:
            state |= _pooler(self.model.settings.width)
        write_tensors(folder / WEIGHTS, _cast(state, self.dtype))
        if self.loaded.tokenizer_path is not None:
            _write_tokenizer(self.loaded, self.origin, folder)
        write_tensors(folder / GOLDEN, self.kept)
        draft.metrics["drift_read_back"] = check_read_back(folder, self.kept, self.dtype)
        if peer:
            kind = None if self.held is None else self.held.kind
            draft.metrics |= check_peer(folder, self.kept, self.dtype, self.config, kind)
            pairs = self.held is not None and self.held.pairs
            draft.metrics |= check_tokenizer(folder, self.loaded, pairs)

    def write_card(self, draft: Draft, folder: Path, title: str | None, licence: str | None) -> None:
        """Write README.md; `folder` is where it will lie."""
        text = card(
            self.loaded,
            folder,
            self.config,
            draft.metrics,
            bare=self.bare and self.held is None,
            title=title,
            licence=licence,
        )
        atomic_write(draft.path / "README.md", text)


def _door(
    model: Model, layout: str | None, origin: Origin | None, special: SpecialTokenIds
) -> tuple[CheckpointFormat, dict[str, Any], Origin | None]:
    """The door, the config.json, and the origin where the model still is what was imported."""
    if origin is not None and layout in (None, origin.format):
        door = find_part(CheckpointFormat, origin.format)()
        head = model.settings.head
        tied = head.tied if isinstance(head, MLMHead) else True
        if door.read_config(origin.config, head=head is not None, tied=tied) == model.settings:
            return door, origin.config, origin
    door = exportable_format(model.settings, special, layout)
    return door, door.write_config(model.settings, special), None


def _copy(model: Model, bare: bool) -> Model:
    """The model, or its encoder alone, in fp32 on the CPU; the one given stays as and where it is."""
    state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in model.state_dict().items()}
    if not bare:
        return model_of_state(model.settings, state)
    encoder = {name: tensor for name, tensor in state.items() if name.startswith("encoder.")}
    return model_of_state(dataclasses.replace(model.settings, head=None), encoder)


def _special(loaded: LoadedModel) -> SpecialTokenIds:
    """Ids of special tokens: the tokenizer's, else those of the imported configuration."""
    if loaded.tokenizer_path is None:
        config = {} if loaded.origin is None else loaded.origin.config
        first = config.get("cls_token_id", config.get("bos_token_id"))
        last = config.get("sep_token_id", config.get("eos_token_id"))
        return SpecialTokenIds(pad=config.get("pad_token_id"), cls=first, sep=last)
    found = {}
    for role in ("pad", "cls", "sep", "mask"):
        name = loaded.tokenizer.roles[role]
        found[role] = None if name is None else loaded.tokenizer.backend.token_to_id(name)
    return SpecialTokenIds(**found)


def _pooler(width: int) -> dict[str, Tensor]:
    """The pooler that the stock class of the bare encoder has, saying the first state's tanh: it would be random."""
    return {f"{POOLER}dense.weight": torch.eye(width), f"{POOLER}dense.bias": torch.zeros(width)}


def _cast(state: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    wanted: torch.dtype = getattr(torch, dtype)
    return {name: t.to(wanted) if t.is_floating_point() else t for name, t in state.items()}


def _write_tokenizer(loaded: LoadedModel, origin: Origin | None, folder: Path) -> None:
    assert loaded.tokenizer_path is not None
    if origin is not None:
        copy_tokenizer(loaded.tokenizer_path, folder)
        return
    settings = loaded.model.settings
    loaded.tokenizer.save(folder, max_length=settings.max_length, token_type_ids=settings.type_vocab_size > 1)
