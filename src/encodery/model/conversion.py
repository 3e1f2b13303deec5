"""Models from checkpoints and back: applies a `CheckpointFormat` to a configuration and to the tensors of a file.

What has no place in our model (pooler, task heads, index buffers) is kept unchanged in `Origin`, together with the
configuration, so that the checkpoint can be written back bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.parts import find_part, name_of, part_names
from encodery.model.format_types import Config, SpecialTokenIds, State
from encodery.model.formats import CheckpointFormat
from encodery.model.heads.mlm import MLMHead
from encodery.model.network import Model, model_of_state
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch

MLM = name_of(MLMHead)
HALF_PRECISIONS = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, eq=False)
class Origin:
    """The checkpoint that a model was imported from: its format, its configuration, and what our model does not hold.

    `aliases`: tensors of the file that repeat another one → the tensor that they repeat. `legacy_names`: current names
    of tensors → the outdated names that the file uses. `has_prefix`: whether the names of the encoder's tensors start
    with the format's prefix. `dtype`: that of the floating-point tensors. `extra_tensors`: those our model has no
    place for.
    """

    format: str
    config: dict[str, Any]
    aliases: dict[str, str] = field(default_factory=dict)
    legacy_names: dict[str, str] = field(default_factory=dict)
    has_prefix: bool = True
    dtype: str = "float32"
    extra_tensors: dict[str, Tensor] = field(default_factory=dict)

    def to_table(self) -> dict[str, Any]:
        """Everything except the tensors, for a manifest."""
        return {name: value for name, value in vars(self).items() if name != "extra_tensors"}

    @staticmethod
    def of_table(table: Mapping[str, Any], extra_tensors: dict[str, Tensor]) -> Origin:
        """The origin that `to_table` wrote, with the tensors stored beside the manifest."""
        return Origin(**table, extra_tensors=extra_tensors)


def format_of(config: Config, name: str | None = None) -> CheckpointFormat:
    """The format of a config.json: the one of that name, which may be a dotted path outside the package, or the first
    that matches.

    Raises `ArtifactError` listing the known formats, and `UnknownName` for an unknown name.
    """
    if name is not None:
        return find_part(CheckpointFormat, name)()
    for name in part_names(CheckpointFormat):
        candidate = find_part(CheckpointFormat, name)()
        if candidate.matches(config):
            return candidate
    raise ArtifactError(
        f"config.json: model_type = {config.get('model_type')!r} is not a known checkpoint format. "
        f"Known: {', '.join(part_names(CheckpointFormat))}. A format outside the package is named: "
        "`encodery model import FOLDER --format my_project.my_format`."
    )


def exportable_format(settings: ModelSettings, special: SpecialTokenIds, name: str | None = None) -> CheckpointFormat:
    """The format in which a model can be written: `name`, or the first one without incompatibilities.

    Raises `SettingsError` that lists the incompatible settings of each format.
    """
    reasons = []
    for candidate_name in [name] if name else part_names(CheckpointFormat):
        candidate = find_part(CheckpointFormat, candidate_name)()
        incompatibilities = candidate.incompatibilities(settings, special)
        if settings.extra_heads and settings.head_name not in candidate.stock_classes:
            names = ", ".join(name for name in candidate.stock_classes if name)
            incompatibilities.append(f"heads = {settings.head_name} (needs {names} or none)")
        if not incompatibilities:
            return candidate
        reasons.append(f"{candidate_name}: " + "; ".join(incompatibilities))
    raise SettingsError("No checkpoint format can express this model.\n  " + "\n  ".join(reasons))


def from_checkpoint(
    checkpoint_format: CheckpointFormat, config: dict[str, Any], file_state: dict[str, Tensor]
) -> tuple[Model, Origin]:
    """Return the model of a configuration and a checkpoint's tensors, and what is needed to write them back.

    Raises `ArtifactError` for missing, unknown or contradictory tensors, `SettingsError` for unsupported settings.
    """
    current = {name: _current_name(name) for name in file_state}
    has_prefix = any(name.startswith(checkpoint_format.prefix) for name in current.values())

    def canonical(name: str) -> str:
        bare = not has_prefix and current[name].startswith(checkpoint_format.bare_prefixes)
        return checkpoint_format.prefix + current[name] if bare else current[name]

    state = {canonical(name): tensor for name, tensor in file_state.items()}
    file_names = {canonical(name): name for name in file_state}
    head = checkpoint_format.head_in(state)
    settings = checkpoint_format.read_config(config, head=head, tied=_is_tied(checkpoint_format, config, state))
    if isinstance(settings.head, MLMHead) and not settings.head.tied and checkpoint_format.unused_bias in state:
        # Older files store the only bias under this name.
        state.setdefault(decoder_bias(checkpoint_format), state[checkpoint_format.unused_bias])
    aliases = _aliases(checkpoint_format, config, settings, state)
    without_aliases = {name: tensor for name, tensor in state.items() if name not in aliases}
    ours, unneeded = import_tensors(checkpoint_format, without_aliases, config, settings)
    origin = Origin(
        format=name_of(checkpoint_format),
        config=config,
        aliases={file_names[name]: current[file_names[target]] for name, target in aliases.items()},
        legacy_names={new: old for old, new in current.items() if new != old and canonical(old) not in unneeded},
        has_prefix=has_prefix,
        dtype=_dtype(ours),
        extra_tensors={file_names[name]: state[name] for name in unneeded},
    )
    return model_of_state(settings, ours), origin


def to_checkpoint(
    checkpoint_format: CheckpointFormat, config: dict[str, Any], model: Model, origin: Origin | None
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint: with an origin, exactly those that it had, under the names that it used."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    theirs = export_tensors(checkpoint_format, state, config, model.settings)
    bare = model.settings.head_name is None if origin is None else not origin.has_prefix
    if bare:
        theirs = {name.removeprefix(checkpoint_format.prefix): tensor for name, tensor in theirs.items()}
    if origin is not None:
        repeated = {name: theirs[target].clone() for name, target in origin.aliases.items()}
        renamed = {origin.legacy_names.get(name, name): tensor for name, tensor in theirs.items()}
        theirs = renamed | repeated | origin.extra_tensors
    return theirs


def import_tensors(
    checkpoint_format: CheckpointFormat, state: State, config: Config, settings: ModelSettings
) -> tuple[dict[str, Tensor], set[str]]:
    """Return our tensors, and the names in `state` that were not needed.

    Raises `ArtifactError` naming a missing tensor, or one of the encoder that the format does not know.
    """
    ours: dict[str, Tensor] = {}
    unneeded = set(state)
    for our_name, their_names in checkpoint_format.tensor_names(config, settings).items():
        for name in their_names:
            if name not in state:
                raise ArtifactError(f"The checkpoint has no tensor '{name}', which its config.json requires.")
        unneeded -= set(their_names)
        pieces = [state[name] for name in their_names]
        ours[our_name] = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    prefix = checkpoint_format.prefix
    unused = tuple(prefix + name for name in checkpoint_format.unused_tensors)
    unknown = sorted(name for name in unneeded if name.startswith(prefix) and not name.startswith(unused))
    if unknown:
        raise ArtifactError(
            f"The checkpoint's tensor '{unknown[0]}' has no place in the format '{name_of(checkpoint_format)}' "
            f"({len(unknown)} such tensors): its encoder is not a stock one."
        )
    return ours, unneeded


def export_tensors(
    checkpoint_format: CheckpointFormat, state: State, config: Config, settings: ModelSettings
) -> dict[str, Tensor]:
    """Return the checkpoint's tensors. What the format has and the model lacks is written as what changes nothing."""
    theirs: dict[str, Tensor] = {}
    for our_name, their_names in checkpoint_format.tensor_names(config, settings).items():
        whole = state[our_name] if our_name in state else _neutral_tensor(our_name, state, settings)
        for name, piece in zip(their_names, whole.chunk(len(their_names)), strict=True):
            theirs[name] = piece.contiguous()
    if checkpoint_format.unused_bias is not None and checkpoint_format.decoder_weight in theirs:
        theirs.setdefault(checkpoint_format.unused_bias, theirs[decoder_bias(checkpoint_format)].clone())
    return theirs


def decoder_bias(checkpoint_format: CheckpointFormat) -> str:
    """The name of the bias that belongs to the decoder's weight."""
    return checkpoint_format.decoder_weight.removesuffix("weight") + "bias"


def _neutral_tensor(name: str, state: State, settings: ModelSettings) -> Tensor:
    """The tensor that stands for a part which the model does not have."""
    shape = settings.shape
    if name == "encoder.embeddings.segment.weight":
        return torch.zeros(2, shape.embedding_size)
    if name == "encoder.positions.table.weight":
        return _position_table(state, settings)
    if name == "heads.mlm.bias":
        return torch.zeros(shape.vocab_size)
    return torch.zeros(state[name.removesuffix("bias") + "weight"].shape[0])


def _position_table(state: State, settings: ModelSettings) -> Tensor:
    """What positions without a table add at each position (max_length, E)."""
    shape = settings.shape
    module = settings.positions.build(shape)
    prefix = "encoder.positions."
    module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    with torch.no_grad():
        layout = Batch.from_sequences([[0] * shape.max_length]).layout
        return module.add(torch.zeros(shape.max_length, shape.embedding_size), layout)


def _current_name(name: str) -> str:
    """The name without the outdated endings: the first checkpoints called weight and bias of a norm gamma and beta."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _embedding_name(checkpoint_format: CheckpointFormat, config: Config, settings: ModelSettings) -> str:
    """The checkpoint's name of the token embeddings."""
    return checkpoint_format.tensor_names(config, settings)["encoder.embeddings.word.weight"][0]


def _is_tied(checkpoint_format: CheckpointFormat, config: Config, state: State) -> bool:
    """Whether the decoder shares the token embeddings: as configured, unless the file stores two different tensors."""
    if not _has_mlm_head(checkpoint_format, state):
        return True
    configured = bool(config.get("tie_word_embeddings", True))
    decoder = checkpoint_format.decoder_weight
    if decoder not in state:
        if not configured:
            raise ArtifactError(f"tie_word_embeddings is false, but the checkpoint has no tensor '{decoder}'.")
        return True
    embeddings = _embedding_name(checkpoint_format, config, checkpoint_format.read_config(config, head=MLM))
    return configured and embeddings in state and torch.equal(state[decoder], state[embeddings])


def _has_mlm_head(checkpoint_format: CheckpointFormat, state: State) -> bool:
    return MLM in (checkpoint_format.head_in(state) or "").split("+")


def _aliases(
    checkpoint_format: CheckpointFormat, config: Config, settings: ModelSettings, state: State
) -> dict[str, str]:
    """Names that repeat another tensor: the weight of a tied decoder, and its bias under a second name."""
    if not _has_mlm_head(checkpoint_format, state):
        return {}
    names = checkpoint_format.tensor_names(config, settings)
    aliases: dict[str, str] = {}
    if checkpoint_format.decoder_weight in state and "heads.mlm.decoder.weight" not in names:
        aliases[checkpoint_format.decoder_weight] = _embedding_name(checkpoint_format, config, settings)
    bias = decoder_bias(checkpoint_format)
    target = names.get("heads.mlm.bias", (bias,))[0]
    if bias in state and target != bias:
        if target not in state or not torch.equal(state[bias], state[target]):
            raise ArtifactError(f"The checkpoint's tensors '{bias}' and '{target}' differ; they must be equal.")
        aliases[bias] = target
    return aliases


def _dtype(state: Mapping[str, Tensor]) -> str:
    """The half precision that all tensors share, otherwise float32."""
    dtypes = {tensor.dtype for tensor in state.values()}
    return HALF_PRECISIONS.get(dtypes.pop(), "float32") if len(dtypes) == 1 else "float32"
