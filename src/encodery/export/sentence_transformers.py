"""A folder that stock `SentenceTransformer(folder)` loads, with the vectors that the model gives here.

The files of `hf` and, beside them, pooling, finish, prompts and length.

Finish steps that are linear (whitening, centring, a Matryoshka cut) become a Dense layer; one without attention
(`embed/static.py`) becomes a StaticEmbedding. The vectors of a few texts are compared where sentence-transformers is
installed. Shapes: N texts, H width of the model, K of a vector.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encodery.base.artifact import Artifact, Draft, atomic_write, writing
from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import encode
from encodery.embed.embedder import Embedder
from encodery.embed.finish import Finish, State
from encodery.embed.finish.centre import Centre
from encodery.embed.finish.normalise import Normalise
from encodery.embed.finish.truncate import Truncate
from encodery.embed.finish.whiten import Whiten
from encodery.embed.pooling import Pooling
from encodery.embed.pooling.cls import CLS
from encodery.embed.pooling.mean import Mean
from encodery.embed.pooling.weighted import Weighted
from encodery.export import Exported, Exporter
from encodery.export._folder import Plan, Precision
from encodery.export._verify import SENTENCES, TOLERANCE
from encodery.model.checkpoint import WEIGHTS, write_tensors
from encodery.model.load import Loaded, copy_tokenizer

PEER = "sentence_transformers"
MODES: dict[type[Pooling], str] = {Mean: "mean_tokens", CLS: "cls_token", Weighted: "weightedmean_tokens"}
ALL_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


@dataclass(frozen=True, kw_only=True)
class SentenceTransformers(Exporter):
    """`layout`, `dtype`, `title`, `license` as in `hf`; `peer`: ask transformers and sentence-transformers, if
    installed."""

    layout: str | None = None
    dtype: Precision | None = None
    peer: bool = True
    title: str | None = None
    license: str | None = None

    def write(self, loaded: Loaded, folder: Path, overwrite: bool = False) -> Exported:
        if loaded.model.settings.depth == 0:
            return self._write_static(loaded, folder, overwrite)
        plan = Plan(loaded, self.layout, self.dtype)
        embedder = Embedder.of(loaded, "cpu")
        modules = [*_pooling(embedder), *_finish(embedder)]
        with writing(folder, "export", self._settings(plan.layout), _parents(loaded), overwrite=overwrite) as draft:
            plan.write(draft, self.peer)
            length = {"max_seq_length": embedder.max_length, "do_lower_case": False}
            _write_json(draft.path / "sentence_bert_config.json", length)
            self._write_modules(draft, embedder, [("Transformer", {}, {}), *modules], plan.dtype)
            plan.write_card(draft, folder, self.title, self.license)
            figures = dict(draft.figures)
        return Exported(artifact=Artifact.open(folder, "export"), layout=plan.layout, figures=figures)

    def _write_static(self, loaded: Loaded, folder: Path, overwrite: bool) -> Exported:
        embedder = Embedder.of(loaded, "cpu")
        if embedder.settings.pooling != Mean(specials=False) or loaded.tokenizer_path is None:
            raise SettingsError(
                "A model of depth 0 is exported with pooling = 'mean', specials = false, and a tokenizer."
            )
        with writing(folder, "export", self._settings("static"), _parents(loaded), overwrite=overwrite) as draft:
            table = {"embedding.weight": loaded.model.encoder.words}
            modules = [("StaticEmbedding", {}, table), *_finish(embedder)]
            copy_tokenizer(loaded.tokenizer_path, draft.path / "0_StaticEmbedding")
            self._write_modules(draft, embedder, modules, "float32")
            figures = dict(draft.figures)
        return Exported(artifact=Artifact.open(folder, "export"), layout="static", figures=figures)

    def _settings(self, layout: str) -> dict[str, Any]:
        return {"export": encode(self), "layout": layout}

    def _write_modules(self, draft: Draft, embedder: Embedder, modules: list[Module], dtype: str) -> None:
        listed = []
        for place, (kind, config, tensors) in enumerate(modules):
            path = "" if kind == "Transformer" else f"{place}_{kind}"
            listed.append(
                {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
            )
            (draft.path / path).mkdir(exist_ok=True)
            if config or kind == "Normalize":
                _write_json(draft.path / path / "config.json", config)
            if tensors:
                write_tensors(draft.path / path / WEIGHTS, tensors)
        _write_json(draft.path / "modules.json", listed)
        unit = bool(embedder.settings.finish) and isinstance(embedder.settings.finish[-1], Normalise)
        told: dict[str, Any] = {"prompts": embedder.settings.prompts, "default_prompt_name": None}
        told["similarity_fn_name"] = "cosine" if unit else "dot"
        _write_json(draft.path / "config_sentence_transformers.json", told)
        if self.peer:
            draft.figures |= _check_peer(draft.path, embedder, dtype)


Module = tuple[str, dict[str, Any], dict[str, torch.Tensor]]
"""Class, config.json and weights of a module of sentence-transformers."""


def _pooling(embedder: Embedder) -> list[Module]:
    pooling = embedder.settings.pooling
    mode = MODES.get(type(pooling))
    if mode is None or pooling != type(pooling)() or embedder.settings.layers is not None:
        what = "layers" if mode is not None and embedder.settings.layers is not None else name_of(pooling)
        raise SettingsError(
            f"embed: '{what}' has no counterpart in sentence-transformers; pooling cls, mean (with special tokens) and "
            "weighted over all layers have."
        )
    config: dict[str, Any] = {"word_embedding_dimension": embedder.model.settings.width}
    config |= {f"pooling_mode_{name}": name == mode for name in ALL_MODES}
    return [("Pooling", config, {})]


def _finish(embedder: Embedder) -> list[Module]:
    found: list[Module] = []
    width = embedder.model.settings.width
    for step, state in zip(embedder.finishing.steps, embedder.finishing.states, strict=True):
        if isinstance(step, Normalise):
            found.append(("Normalize", {}, {}))
        else:
            found.append(_dense(step, state, width))
        width = step.width(width)
    return found


def _dense(step: Finish, state: State, width: int) -> Module:
    """A linear step as x W^T + b. Raises `SettingsError` for one that is not linear."""
    if not isinstance(step, Whiten | Centre | Truncate):
        raise SettingsError(
            f"finish = '{name_of(step)}': has no counterpart in sentence-transformers; normalise, truncate, centre and "
            "whiten have."
        )
    bias = step.apply(np.zeros((1, width), np.float32), state)[0].astype(np.float64)
    weight = step.apply(np.eye(width, dtype=np.float32), state).astype(np.float64) - bias
    config: dict[str, Any] = {"in_features": width, "out_features": len(bias), "bias": True}
    config["activation_function"] = "torch.nn.modules.linear.Identity"
    tensors = {"linear.weight": torch.from_numpy(weight.T.astype(np.float32).copy())}
    return "Dense", config, tensors | {"linear.bias": torch.from_numpy(bias.astype(np.float32))}


def _check_peer(folder: Path, embedder: Embedder, dtype: str) -> dict[str, Any]:
    """The largest difference of the vectors from the peer's; nothing where that is not installed.

    Raises `ArtifactError`.
    """
    if importlib.util.find_spec(PEER) is None:
        return {}
    texts = [text for text in SENTENCES if len(embedder.tokenizer.encode(text)) <= embedder.longest]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = importlib.import_module(PEER)
        try:
            model = peer.SentenceTransformer(str(folder), device="cpu")
            theirs = model.float().encode(texts, show_progress_bar=False)
        except Exception as error:
            raise ArtifactError(
                f"{PEER} {peer.__version__} cannot load the export: {error}. With peer=false it is written unasked."
            ) from error
    ours = embedder.encode(texts).vectors
    apart = float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-12)) if texts else 0.0
    if not apart <= TOLERANCE[dtype]:
        raise ArtifactError(
            f"The export's vectors drift from the model's: in {PEER} {peer.__version__} they are off by {apart:.1e} of "
            f"the largest value, {TOLERANCE[dtype]:.0e} allowed. Nothing was written."
        )
    return {"drift_sentence_transformers": apart, PEER: peer.__version__}


def _parents(loaded: Loaded) -> dict[str, Artifact] | None:
    return {"model": loaded.artifact} if loaded.artifact is not None else None


def _write_json(path: Path, table: Any) -> None:
    atomic_write(path, json.dumps(table, indent=2, ensure_ascii=False) + "\n")
