"""A run that goes on from a trained model instead of random weights: continued pre-training. arXiv:2004.10964

The model's shapes are the given model's, its vocabulary must be that of the tokens. A head that it lacks is the
recipe's, fresh. Everything else (rate, which warms up anew, length, objective) is the recipe's.
"""

from __future__ import annotations

import hashlib

import numpy as np
from torch import nn

from encodery.base.errors import SettingsError
from encodery.model.load import LoadedModel
from encodery.model.network import Model, build_model
from encodery.model.settings import ModelSettings
from encodery.tokens.tokenizer import Tokenizer


def build_initialised(loaded: LoadedModel, settings: ModelSettings, seed: int) -> Model:
    """A model of these settings with the weights of `loaded`; heads it does not have are fresh.

    Raises `SettingsError` naming the first tensor that does not fit.
    """
    model = build_model(settings, seed)
    own, given = model.state_dict(), loaded.model.state_dict()
    for name, tensor in given.items():
        if name not in own or own[name].shape != tensor.shape:
            there = list(own[name].shape) if name in own else "no place"
            raise SettingsError(
                f"init_from = {loaded.path}: its tensor '{name}' of shape {list(tensor.shape)} has {there} under the "
                "settings of model. Sizes and parts are those of the given model; `encodery model edit` changes its "
                "vocabulary and its length."
            )
    lacking = [name for name in own if name not in given and not name.startswith("heads.")]
    if lacking:
        raise SettingsError(
            f"init_from = {loaded.path}: has no tensor '{lacking[0]}', which the settings of model ask."
        )
    model.load_state_dict(own | given)
    return model


def new_heads(model: Model, loaded: LoadedModel) -> nn.ModuleList:
    """The heads of `model` that `loaded` does not have: they know nothing yet, so they learn whatever stands still."""
    return nn.ModuleList(head for name, head in model.heads.items() if name not in loaded.model.heads)


def check_same_vocabulary(loaded: LoadedModel, tokenizer: Tokenizer, where: str) -> None:
    """Raises `SettingsError` where `tokenizer`, that of the tokens in `where`, is not the model's."""
    if loaded.tokenizer.fingerprint != tokenizer.fingerprint:
        raise SettingsError(
            f"init_from = {loaded.path}: its vocabulary is not that of {where}. Pack the corpus with the model's "
            f"tokenizer (encodery tokens encode CORPUS --tokenizer {loaded.tokenizer_path} --out TOKENS), or give "
            f"the model the "
            f"other vocabulary first (encodery model edit MODEL --surgery vocabulary tokenizer={where}/tokenizer "
            f"--out NEW)."
        )


def fingerprint(loaded: LoadedModel) -> str:
    """32 hexadecimal digits over the weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(loaded.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()[:32]
