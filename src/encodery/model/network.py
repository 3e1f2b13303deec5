"""The model: an encoder and its language-model head, built from settings and initialised from a seed.

Shapes: M positions, V vocabulary, H width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.parts import name_of
from encodery.model.decoder import Decoder
from encodery.model.encoder import Encoder
from encodery.model.extensions import ExtensionModules, ModelExtension, SublayerAdapter
from encodery.model.extra_heads import ExtraHeadModule
from encodery.model.heads import LMHeadModule
from encodery.model.memory import Memory
from encodery.model.sequence_transform import SequenceTransform
from encodery.model.settings import ModelSettings
from encodery.model.shape import Batch, Output


class Model(nn.Module):
    """`encoder`, `heads` by name, `decoder` or None, and the `settings` from which all were built."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(settings)
        self.decoder = None if settings.decoder is None else Decoder(settings.decoder, settings)
        self.heads = nn.ModuleDict()
        for head in (settings.head, *settings.extra_heads):
            if head is not None:
                name = name_of(head).replace(".", "_")  # The name of a part outside the package has dots.
                self.heads[name] = head.build(settings.shape, settings.norm)

    def add_extension(self, extension: ModelExtension, generator: torch.Generator) -> ExtensionModules:
        """Add an extension to the encoder and to the settings, and return its modules.

        `generator` (on the CPU) draws their initial weights. Raises `SettingsError` if a place is occupied.
        """
        settings = dataclasses.replace(self.settings, extensions=(*self.settings.extensions, extension))
        modules = extension.build(self.settings.shape)
        for module in modules:
            module.init_weights(generator)
            module.to(self.encoder.token_embeddings.device)
        self.encoder.install(modules)
        self.settings = settings
        return modules

    @property
    def mlm_head(self) -> LMHeadModule:
        """The masked-language-model head. Raises `SettingsError` if the model has none."""
        if "mlm" not in self.heads:
            raise SettingsError("This model has no 'mlm' head.")
        head = self.heads["mlm"]
        assert isinstance(head, LMHeadModule)
        return head

    def extra_head(self, name: str) -> ExtraHeadModule:
        """The extra head of that name. Raises `SettingsError` if the model has none."""
        if name not in self.heads:
            raise SettingsError(f"This model has no '{name}' head: add it to model.extra_heads.")
        head = self.heads[name]
        assert isinstance(head, ExtraHeadModule)
        return head

    def forward(
        self, batch: Batch, keep_layers: bool = False, sequence_transform: SequenceTransform | None = None
    ) -> Output:
        """The encoder's output (see `Encoder.forward`), with `mlm_logits` if there is a masked-language-model head.

        If the batch has a `memory`, the encoder reads that, and the output is the decoder's for the batch itself.
        Raises `SettingsError` if the model has no decoder.
        """
        if batch.memory is not None:
            return self._decode(batch, batch.memory)
        output: Output = self.encoder(batch, keep_layers, sequence_transform)
        return dataclasses.replace(output, mlm_logits=self.mlm_logits) if "mlm" in self.heads else output

    def _decode(self, batch: Batch, source: Batch) -> Output:
        if self.decoder is None:
            raise SettingsError("The batch has a memory, but this model has no decoder: set model.decoder.")
        embeddings = self.encoder.embeddings
        x = embeddings.widen(embeddings(batch.ids, batch.segment))
        encoded: Output = self.encoder(source)
        hidden = self.decoder(x, batch.layout, Memory(encoded.hidden, source.layout))
        return Output(hidden, auxiliary=encoded.auxiliary)

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (M, H) → logits over the vocabulary (M, V). Raises `SettingsError` if there is no head."""
        logits: Tensor = self.mlm_head(hidden, self.encoder)
        return logits


def build_model(settings: ModelSettings, seed: int = 0) -> Model:
    """Build a newly initialised model on the CPU; equal seeds give equal weights."""
    model = Model(settings)
    generator = torch.Generator().manual_seed(seed)
    settings.init.apply(model, settings.shape, generator)
    for module in model.modules():
        if isinstance(module, SublayerAdapter | SequenceTransform):
            module.init_weights(generator)
    return model


def model_of_state(settings: ModelSettings, state: Mapping[str, Tensor]) -> Model:
    """Build a model with these weights, in fp32 on the CPU and in evaluation mode.

    Raises `ArtifactError` if the names or the shapes of the weights do not fit the settings.
    """
    model = Model(settings)
    expected = model.state_dict()
    for name in sorted(set(expected) ^ set(state)):
        raise ArtifactError(f"The weights {'lack' if name in expected else 'have an unknown'} tensor '{name}'.")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise ArtifactError(
                f"Tensor '{name}' has shape {tuple(tensor.shape)}, the settings require {tuple(expected[name].shape)}."
            )
    model.load_state_dict(dict(state))
    return model.eval()


def copy_for_training(model: Model, dropout: float | None) -> Model:
    """Copy the weights into a new model that is to be trained with other dropout; its `settings` stay those of `model`.

    `dropout` is that of hidden states (None: unchanged). Attention weights get none, because attention with dropout
    would have to keep all of them in memory.
    """
    settings = model.settings
    dropout = settings.dropout if dropout is None else dropout
    copy = Model(dataclasses.replace(settings, dropout=dropout, attention=settings.attention.without_dropout()))
    copy.load_state_dict(model.state_dict())
    copy.settings = settings
    return copy


def without_heads(model: Model) -> Model:
    """Return a model without heads that shares the encoder of `model`."""
    with torch.device("meta"):
        bare = Model(dataclasses.replace(model.settings, head=None, extra_heads=()))
    bare.encoder, bare.decoder = model.encoder, model.decoder
    return bare
