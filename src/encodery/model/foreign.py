"""Folders of Hugging Face and sentence-transformers as our models, through the doors of `hub/`.

What has no place in our model (pooler, task heads, index buffers) is kept as it came, with the configuration, in
`Origin`, so that the checkpoint can be written back bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encodery.base.errors import ArtifactError, SettingsError, UserError
from encodery.base.parts import name_of
from encodery.model.checkpoint import read_json, read_state
from encodery.model.formats import CheckpointFormat, format_of
from encodery.model.heads.mlm import MLMHead
from encodery.model.network import Model, ModelSettings

HALVES = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a model came from: its door, its configuration, and what of its file our model has no place for.

    `aliases` are names of tensors that only repeat another; `renamed` are today's names of tensors that the file
    calls otherwise; `prefixed` says whether the encoder's names bore the door's prefix; `dtype` is that of the file's
    floating tensors.
    """

    format: str
    config: dict[str, Any]
    aliases: dict[str, str] = field(default_factory=dict)
    legacy_names: dict[str, str] = field(default_factory=dict)
    has_prefix: bool = True
    dtype: str = "float32"
    extra_tensors: dict[str, Tensor] = field(default_factory=dict)

    def to_table(self) -> dict[str, Any]:
        """Everything but the tensors, for a manifest."""
        return {
            "format": self.format,
            "config": self.config,
            "aliases": self.aliases,
            "legacy_names": self.legacy_names,
            "has_prefix": self.has_prefix,
            "dtype": self.dtype,
        }

    @staticmethod
    def of_table(table: Mapping[str, Any], rest: dict[str, Tensor]) -> Origin:
        """The origin that a manifest tells of, with the tensors kept beside it."""
        return Origin(**table, extra_tensors=rest)


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """A foreign folder, read: the model (fp32, on the CPU), how to embed with it, its origin, and `base`, where the
    weights and the tokenizer lie."""

    model: Model
    embedding: dict[str, Any]
    origin: Origin
    base: Path


def import_folder(folder: Path) -> ImportedModel:
    """Read a folder with config.json and safetensors; the layout is found from `model_type`.

    A sentence-transformers folder also tells its pooling, normalisation, length and prompts. Raises `ArtifactError`
    for damaged or missing files, `SettingsError` for a configuration that cannot be followed, both naming the folder.
    """
    base, embedding = _sentence_modules(folder)
    try:
        config = read_json(base / "config.json")
        if not isinstance(config, dict):
            raise ArtifactError(f"{base / 'config.json'}: holds no table but {type(config).__name__}.")
        door = format_of(config)
        model, origin = from_checkpoint(door, config, read_state(base))
    except UserError as error:
        raise type(error)(f"{folder}: {error}") if str(folder) not in str(error) else error from error
    return ImportedModel(model, embedding, origin, base)


def from_checkpoint(
    door: CheckpointFormat, config: dict[str, Any], file_state: dict[str, Tensor]
) -> tuple[Model, Origin]:
    """The model of a configuration and a checkpoint's tensors, and what is needed to write them back."""
    modern = {name: _modern(name) for name in file_state}
    prefixed = any(name.startswith(door.prefix) for name in modern.values())

    def canonical(name: str) -> str:
        bare = not prefixed and modern[name].startswith(door.bare_prefixes)
        return door.prefix + modern[name] if bare else modern[name]

    state = {canonical(name): tensor for name, tensor in file_state.items()}
    files = {canonical(name): name for name in file_state}
    head = door.has_head(state)
    settings = door.read_config(config, head=head, tied=_is_tied(door, config, state))
    if isinstance(settings.head, MLMHead) and not settings.head.tied and door.unused_bias in state:
        state.setdefault(door.decoder_bias, state[door.unused_bias])  # older files hold the one bias under this name
    aliases = _aliases(door, config, settings, state)
    ours, left = door.import_tensors({name: t for name, t in state.items() if name not in aliases}, config, settings)
    origin = Origin(
        format=name_of(door),
        config=config,
        aliases={files[name]: modern[files[target]] for name, target in aliases.items()},
        legacy_names={new: name for name, new in modern.items() if new != name and canonical(name) not in left},
        has_prefix=prefixed,
        dtype=_dtype(ours),
        extra_tensors={files[name]: state[name] for name in left},
    )
    return model_of_state(settings, ours), origin


def to_checkpoint(
    door: CheckpointFormat, config: dict[str, Any], model: Model, origin: Origin | None
) -> dict[str, Tensor]:
    """The tensors of a checkpoint: with an origin, exactly those it had, under the names it had."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    theirs = door.export_tensors(state, config, model.settings)
    bare = model.settings.head is None if origin is None else not origin.has_prefix
    if bare:
        theirs = {name.removeprefix(door.prefix): tensor for name, tensor in theirs.items()}
    if origin is not None:
        repeated = {name: theirs[target].clone() for name, target in origin.aliases.items()}
        theirs = (
            {origin.legacy_names.get(name, name): tensor for name, tensor in theirs.items()}
            | repeated
            | origin.extra_tensors
        )
    return theirs


def model_of_state(settings: ModelSettings, state: Mapping[str, Tensor]) -> Model:
    """A model in fp32 on the CPU, ready to run, with these weights. Raises `ArtifactError` where they do not fit."""
    model = Model(settings)
    expected = model.state_dict()
    for name in sorted(set(expected) ^ set(state)):
        raise ArtifactError(f"The weights {'lack' if name in expected else 'have an unknown'} tensor '{name}'.")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise ArtifactError(
                f"Tensor '{name}' has shape {tuple(tensor.shape)}, the settings call for {tuple(expected[name].shape)}."
            )
    model.load_state_dict(dict(state))
    return model.eval()


def _modern(name: str) -> str:
    """Norms were called gamma and beta in the first checkpoints."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _word_name(door: CheckpointFormat, config: dict[str, Any], settings: ModelSettings) -> str:
    return door.tensor_names(config, settings)["encoder.embeddings.word.weight"][0]


def _is_tied(door: CheckpointFormat, config: dict[str, Any], state: Mapping[str, Tensor]) -> bool:
    """Whether the decoder is the word table: as configured, unless the file holds two different ones."""
    if not door.has_head(state):
        return True
    told = bool(config.get("tie_word_embeddings", True))
    if door.decoder_weight not in state:
        if not told:
            raise ArtifactError(
                f"tie_word_embeddings is false, but the checkpoint has no tensor '{door.decoder_weight}'."
            )
        return True
    words = _word_name(door, config, door.read_config(config, head=True))
    return told and words in state and torch.equal(state[door.decoder_weight], state[words])


def _aliases(
    door: CheckpointFormat, config: dict[str, Any], settings: ModelSettings, state: Mapping[str, Tensor]
) -> dict[str, str]:
    """Names that repeat a tensor already there: a tied decoder's weight, and its bias under a second name."""
    if not door.has_head(state):
        return {}
    names = door.tensor_names(config, settings)
    found: dict[str, str] = {}
    if door.decoder_weight in state and "heads.mlm.decoder.weight" not in names:
        found[door.decoder_weight] = _word_name(door, config, settings)
    bias = door.decoder_bias
    target = names.get("heads.mlm.bias", (bias,))[0]
    if bias in state and target != bias:
        if target not in state or not torch.equal(state[bias], state[target]):
            raise ArtifactError(f"The checkpoint's tensors '{bias}' and '{target}' differ; they must be one.")
        found[bias] = target
    return found


def _dtype(state: Mapping[str, Tensor]) -> str:
    """The half precision all tensors share, else float32."""
    kinds = {tensor.dtype for tensor in state.values()}
    return HALVES.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"


_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weighted",
    "pooling_mode_lasttoken": "lasttoken",
}


def _sentence_modules(folder: Path) -> tuple[Path, dict[str, Any]]:
    """(the transformer's folder, {"dense": pooling, postprocess, max_length, prompts}) of a sentence-transformers folder.

    Elsewhere (folder, {}). Raises `SettingsError` for a module that we would not compute.
    """
    if not (folder / "modules.json").is_file():
        return folder, {}
    base, found, finish = folder, dict[str, Any](), list[dict[str, str]]()
    for module in read_json(folder / "modules.json"):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        place = folder / module.get("path", "")
        if kind == "Transformer":
            base = place
            found |= _length(place)
        elif kind == "Pooling":
            found["pooling"] = {"is": _pooling(place)}
        elif kind == "Normalize":
            finish.append({"is": "normalise"})
        else:
            raise SettingsError(
                f"{folder / 'modules.json'}: module '{kind}' is not supported; Transformer, Pooling and Normalize are."
            )
    return base, {"dense": found | {"postprocess": finish, "prompts": _prompts(folder)}}


def _pooling(place: Path) -> str:
    config = read_json(place / "config.json")
    told = config.get("pooling_mode")
    modes = [name for key, name in _POOLINGS.items() if config.get(key)]
    if told is not None:
        modes = [told] if isinstance(told, str) else list(told)
        modes = [_POOLINGS.get(f"pooling_mode_{mode}_tokens", mode) for mode in modes]
    if len(modes) != 1 or config.get("include_prompt", True) is not True:
        what = f"modes {modes}" if len(modes) != 1 else "include_prompt = false"
        raise SettingsError(
            f"{place / 'config.json'}: pooling with {what} is not supported; one mode over all tokens is."
        )
    return str(modes[0])


def _length(base: Path) -> dict[str, Any]:
    """The longest input in tokens: of the sentence configuration, else of the tokenizer."""
    sentence, tokenizer = (_optional(base / f"{name}_config.json") for name in ("sentence_bert", "tokenizer"))
    if sentence.get("do_lower_case") and '"lowercase": true' not in json.dumps(_optional(base / "tokenizer.json")):
        raise SettingsError(
            f"{base / 'sentence_bert_config.json'}: do_lower_case = true, but the tokenizer keeps case."
        )
    for value in (sentence.get("max_seq_length"), tokenizer.get("model_max_length")):
        if isinstance(value, int) and value < 1 << 30:
            return {"max_length": value}
    return {}


def _optional(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return found


def _prompts(folder: Path) -> dict[str, str]:
    path = folder / "config_sentence_transformers.json"
    config = _optional(path)
    if config.get("default_prompt_name"):
        raise SettingsError(
            f"{path}: default_prompt_name = {config['default_prompt_name']!r} is not supported; name the prompt when "
            "encoding, and set it to null here."
        )
    return {name: text for name, text in (config.get("prompts") or {}).items() if text}
