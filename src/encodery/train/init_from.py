"""Continued pre-training: a run that starts from a trained model instead of random weights (arXiv:2004.10964).

The sizes are those of the source model, and the vocabulary must be that of the tokens. A head that the source lacks is
the recipe's, newly initialised. Everything else (learning rate, which warms up again, length, objective) is the
recipe's."""

from __future__ import annotations

from torch import nn

from encodery.base.errors import SettingsError
from encodery.model.load import LoadedModel
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.tokenizer import Tokenizer


def build_initialised(source: LoadedModel, settings: ModelSettings, seed: int) -> Model:
    """A model of these settings with the weights of `source`; heads that `source` lacks are newly initialised.

    Raises `SettingsError` naming the first tensor that does not fit.
    """
    model = build_model(settings, seed)
    own, loaded = model.state_dict(), source.model.state_dict()
    for name, tensor in loaded.items():
        if name not in own or own[name].shape != tensor.shape:
            shape = f"has the shape {list(own[name].shape)}" if name in own else "does not exist"
            raise SettingsError(
                f"init_from = {source.path}: its tensor '{name}' of shape {list(tensor.shape)} {shape} under the "
                "settings of model. Sizes and parts must be those of the source model; `encodery model edit` changes "
                "its vocabulary and its length."
            )
    missing = [name for name in own if name not in loaded and not name.startswith("heads.")]
    if missing:
        raise SettingsError(
            f"init_from = {source.path}: has no tensor '{missing[0]}', which the settings of model require."
        )
    model.load_state_dict(own | loaded)
    return model


def new_heads(model: Model, source: LoadedModel) -> nn.ModuleList:
    """The heads of `model` that `source` does not have. They are newly initialised, so they are trained even if an
    adaptation freezes the rest."""
    return nn.ModuleList(head for name, head in model.heads.items() if name not in source.model.heads)


def check_same_vocabulary(source: LoadedModel, tokenizer: Tokenizer, tokens: str) -> None:
    """Raise `SettingsError` if `tokenizer`, that of the folder `tokens`, is not the tokenizer of the source model."""
    if source.tokenizer.fingerprint != tokenizer.fingerprint:
        raise SettingsError(
            f"init_from = {source.path}: its vocabulary is not that of {tokens}. Encode the corpus with the model's "
            f"tokenizer (encodery tokens encode CORPUS --tokenizer {source.tokenizer_path} --out TOKENS), or give the "
            "model the other vocabulary first (encodery model edit MODEL --surgery vocabulary "
            f"tokenizer={tokens}/tokenizer --out NEW)."
        )
