"""The files of a Hugging Face folder: config.json, weights, tokenizer, golden outputs, model card; verified at once.

Shared by the exporters whose result is such a folder, alone or with further files.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from encodery.base.artifact import Draft, atomic_write
from encodery.base.errors import SettingsError, UnknownName
from encodery.base.parts import find_part, name_of
from encodery.export._card import CardTexts, model_card
from encodery.export._heads import OUTPUTS, ExportedHead, export_head
from encodery.export._verify import check_peer, check_read_back, check_tokenizer
from encodery.finetune.fine_tuned import FineTuned
from encodery.model.checkpoint import WEIGHTS, write_tensors
from encodery.model.conversion import Origin, exportable_format, to_checkpoint
from encodery.model.format_types import SpecialTokenIds
from encodery.model.formats import CheckpointFormat
from encodery.model.golden import golden_outputs
from encodery.model.heads.mlm import MLMHead
from encodery.model.load import GOLDEN, LoadedModel, copy_tokenizer
from encodery.model.network import Model, model_of_state

Precision = Literal["float32", "float16", "bfloat16"]


class FolderExport:
    """What will be written of a model, decided before anything is written: format, configuration, precision.

    Args:
        loaded: The model.
        format_name: A checkpoint format (None: the first that can express the model).
        dtype: Precision of the weights (None: that of the imported checkpoint, or float32).
        bare: Whether the encoder is written alone, whatever head the model has.

    Raises `SettingsError` naming the settings that no format can express, or the unknown format.
    """

    def __init__(
        self, loaded: LoadedModel, format_name: str | None, dtype: Precision | None, bare: bool = False
    ) -> None:
        if format_name is not None:
            _check_known(format_name)
        self.bare = bare
        self.model = _copy(loaded.model, bare)
        self.loaded = dataclasses.replace(loaded, model=self.model)
        self.golden = golden_outputs(self.model)
        self.head: ExportedHead | None = None
        origin = None if bare else loaded.origin
        self.format, self.config, self.origin = _choose_format(
            self.model, format_name, origin, _special_token_ids(loaded)
        )
        self.dtype: str = dtype or ("float32" if self.origin is None else self.origin.dtype)
        if self.origin is None or self.dtype != self.origin.dtype:
            self.config = {k: v for k, v in self.config.items() if k not in ("dtype", "torch_dtype")}
            self.config["dtype"] = self.dtype

    def add_head(self, head: FineTuned) -> None:
        """Add the head of a task. Raises `SettingsError` if no stock class of the format computes it."""
        self.head = export_head(head, self.model, self.golden, self.format)
        self.config = {**self.config, **self.head.config}
        self.golden[OUTPUTS] = self.head.outputs

    @property
    def format_name(self) -> str:
        """The name of the checkpoint format."""
        return name_of(self.format)

    def write(self, draft: Draft, verify_with_peer: bool) -> None:
        """Write the files, and add the drifts to the draft's metrics.

        `verify_with_peer`: whether outputs are compared with those of transformers too. Raises `ArtifactError` if
        outputs differ.
        """
        folder = draft.path
        atomic_write(folder / "config.json", json.dumps(self.config, indent=2, ensure_ascii=False) + "\n")
        state = to_checkpoint(self.format, self.config, self.model, self.origin)
        if self.head is not None:
            state = {f"{self.format.prefix}{name}": tensor for name, tensor in state.items()} | self.head.tensors
        elif self.origin is None and self.model.settings.head_name is None and self.format.pooler is not None:
            state |= _identity_pooler(self.format.pooler, self.model.settings.width)
        write_tensors(folder / WEIGHTS, _cast(state, self.dtype))
        if self.loaded.tokenizer_path is not None:
            _write_tokenizer(self.loaded, self.origin, folder)
        write_tensors(folder / GOLDEN, self.golden)
        draft.metrics["drift_read_back"] = check_read_back(folder, self.golden, self.dtype, self.format_name)
        if verify_with_peer:
            kind = None if self.head is None else self.head.kind
            stock_class = (
                self.format.stock_class(kind) if kind else self.format.stock_classes[self.model.settings.head_name]
            )
            draft.metrics |= check_peer(folder, self.golden, self.dtype, self.config, stock_class, kind)
            pairs = self.head is not None and self.head.pairs
            draft.metrics |= check_tokenizer(folder, self.loaded, pairs)

    def write_card(self, draft: Draft, folder: Path, texts: CardTexts) -> None:
        """Write README.md; `folder` is where the export will be."""
        bare = self.bare and self.head is None
        card = model_card(self.loaded, folder, self.format, self.config, draft.metrics, bare=bare, texts=texts)
        atomic_write(draft.path / "README.md", card)


def _check_known(format_name: str) -> None:
    """Raise `SettingsError` with the nearest name for a checkpoint format that does not exist."""
    try:
        find_part(CheckpointFormat, format_name)
    except UnknownName as error:
        raise SettingsError(f"checkpoint_format = '{format_name}': {error}") from error


def _choose_format(
    model: Model, name: str | None, origin: Origin | None, special: SpecialTokenIds
) -> tuple[CheckpointFormat, dict[str, Any], Origin | None]:
    """The format, the config.json, and the origin if the model still has the settings that were imported."""
    if origin is not None and name in (None, origin.format):
        original = find_part(CheckpointFormat, origin.format)()
        head = model.settings.head
        tied = head.tied if isinstance(head, MLMHead) else True
        if original.read_config(origin.config, head=model.settings.head_name, tied=tied) == model.settings:
            return original, origin.config, origin
    chosen = exportable_format(model.settings, special, name)
    return chosen, chosen.write_config(model.settings, special), None


def _copy(model: Model, bare: bool) -> Model:
    """A copy of the model, or of its encoder alone, in fp32 on the CPU."""
    state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in model.state_dict().items()}
    if not bare:
        return model_of_state(model.settings, state)
    encoder = {name: tensor for name, tensor in state.items() if name.startswith("encoder.")}
    return model_of_state(dataclasses.replace(model.settings, head=None, extra_heads=()), encoder)


def _special_token_ids(loaded: LoadedModel) -> SpecialTokenIds:
    """Ids of special tokens, from the tokenizer, otherwise from the imported configuration."""
    if loaded.tokenizer_path is None:
        config = {} if loaded.origin is None else loaded.origin.config
        first = config.get("cls_token_id", config.get("bos_token_id"))
        last = config.get("sep_token_id", config.get("eos_token_id"))
        return SpecialTokenIds(pad=config.get("pad_token_id"), cls=first, sep=last)
    ids = {}
    for role in ("pad", "cls", "sep", "mask"):
        token = loaded.tokenizer.roles[role]
        ids[role] = None if token is None else loaded.tokenizer.backend.token_to_id(token)
    return SpecialTokenIds(**ids)


def _identity_pooler(layer: str, width: int) -> dict[str, Tensor]:
    """The pooler of the bare encoder's stock class, which would be random otherwise: tanh of the first hidden state."""
    return {f"{layer}.weight": torch.eye(width), f"{layer}.bias": torch.zeros(width)}


def _cast(state: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    target: torch.dtype = getattr(torch, dtype)
    return {name: t.to(target) if t.is_floating_point() else t for name, t in state.items()}


def _write_tokenizer(loaded: LoadedModel, origin: Origin | None, folder: Path) -> None:
    assert loaded.tokenizer_path is not None
    if origin is not None:
        copy_tokenizer(loaded.tokenizer_path, folder)
        return
    settings = loaded.model.settings
    loaded.tokenizer.save(folder, max_length=settings.max_length, token_type_ids=settings.type_vocab_size > 1)
