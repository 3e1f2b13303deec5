"""A folder that stock sentence-transformers loads, with the vectors or scores that the model gives here.

`SentenceTransformer(folder)` for embeddings, `SparseEncoder(folder)` for weights of words, `MultiVectorEncoder(folder)`
for a vector a token, `CrossEncoder(folder)` for a model of the task `rank`. The files of `hf` and beside them pooling,
finish, prompts and length: linear finish steps (whitening, centring, a Matryoshka cut) become a Dense layer, a model
without attention (`encoders/static_distillation.py`) becomes a StaticEmbedding. What the folder gives for a few texts is compared where
sentence-transformers is installed.
Shapes: N texts, K width of a vector, V vocabulary.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.artifact import Artifact, Draft, atomic_write, create_artifact
from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.settings import encode
from encodery.encoders import DOCUMENT, QUERY, sparse
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.loading import kind_of
from encodery.encoders.multi_vector import MultiVectorEncoder
from encodery.encoders.postprocess.normalise import Normalise
from encodery.export import Exporter, ExportResult, _modules
from encodery.export._folder import FolderExport, Precision
from encodery.export._heads import check_matching
from encodery.export._modules import Module
from encodery.export._verify import SENTENCES, TOLERANCE
from encodery.finetune.predict import Predictor
from encodery.finetune.tasks.rank import PassageRanking
from encodery.model.checkpoint import WEIGHTS, write_tensors
from encodery.model.load import LoadedModel, copy_tokenizer

PEER = "sentence_transformers"
SIGMOID = "torch.nn.modules.activation.Sigmoid"
READS = {"fill-mask": "logits", "feature-extraction": "last_hidden_state"}
Check = Callable[[Any, Path], tuple[np.ndarray, np.ndarray]]
"""The peer's package and the folder → what we compute, and what the folder gives in the peer."""


@dataclass(frozen=True)
class _Content:
    """`modules` in order; `told` in config_sentence_transformers.json; `task` of the transformer, its `length`; how to
    `check` it against the peer; `more` settings of the transformer."""

    modules: list[Module]
    told: dict[str, Any]
    task: str | None
    length: int
    check: Check
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SentenceTransformersExporter(Exporter):
    """`layout`, `dtype`, `title`, `license` as in `hf`; `peer`: ask transformers and sentence-transformers, if
    installed."""

    checkpoint_format: str | None = None
    dtype: Precision | None = None
    verify_with_peer: bool = True
    title: str | None = None
    license: str | None = None

    def write(self, loaded: LoadedModel, folder: Path, overwrite: bool = False) -> ExportResult:
        flat = loaded.model.settings.depth == 0
        plan = None if flat else FolderExport(loaded, self.checkpoint_format, self.dtype)
        content = _content(loaded)
        layout = "static" if plan is None else plan.layout
        settings = {"export": encode(self), "format": layout}
        parents = {"model": loaded.artifact} if loaded.artifact is not None else None
        with create_artifact(folder, "export", settings, parents, overwrite=overwrite) as draft:
            if plan is not None:
                plan.write(draft, self.verify_with_peer)
                _write_json(draft.path / "sentence_bert_config.json", _reads(content))
            elif loaded.tokenizer_path is not None:
                copy_tokenizer(loaded.tokenizer_path, draft.path / "0_StaticEmbedding")
            _write_modules(draft.path, content)
            if self.verify_with_peer:
                draft.metrics |= _check_peer(draft, content, "float32" if plan is None else plan.dtype)
            if plan is not None:
                plan.write_card(draft, folder, self.title, self.license)
            figures = dict(draft.metrics)
        return ExportResult(artifact=Artifact.open(folder, "export"), format=layout, metrics=figures)


def _content(loaded: LoadedModel) -> _Content:
    """What the model is to them. Raises `SettingsError` for a task or an encoding that they do not have."""
    if "task" in loaded.settings:
        return _ranker(Predictor.from_model(loaded, "cpu"))
    kind = kind_of(loaded.settings)
    if kind == "multi_vector":
        return _multivector(MultiVectorEncoder.from_loaded(loaded, "cpu"))
    if kind == "sparse":
        return _sparse(sparse.SparseEncoder.from_loaded(loaded, "cpu"))
    embedder = DenseEncoder.from_loaded(loaded, "cpu")
    modules = (_modules.static if loaded.model.settings.depth == 0 else _modules.embedding)(embedder)
    unit = bool(embedder.settings.postprocess) and isinstance(embedder.settings.postprocess[-1], Normalise)
    told = {"prompts": embedder.settings.prompts, "similarity_fn_name": "cosine" if unit else "dot"}

    def check(peer: Any, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        texts = _fitting(embedder)
        model = peer.SentenceTransformer(str(folder), device="cpu").float()
        return embedder.encode(texts).vectors, model.encode(texts, show_progress_bar=False)

    return _Content(modules, told, None, embedder.max_length, check)


def _sparse(encoder: sparse.SparseEncoder) -> _Content:
    if encoder.settings.terms == "tokens" or encoder.settings.query_encoding == "bow":
        raise SettingsError("Weights of a text's own tokens, and queries that are counted, have no counterpart there.")

    def check(peer: Any, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        texts = _fitting(encoder)
        model = peer.SparseEncoder(str(folder), device="cpu").float()
        theirs = model.encode(texts, show_progress_bar=False, convert_to_tensor=True).to_dense().numpy()
        found, ours = encoder.encode(texts), np.zeros((len(texts), encoder.dimension), np.float32)
        for number in range(len(texts)):
            words, weights = found.at(number)
            ours[number, words] = weights
        return ours, theirs

    told = {"model_type": "SparseEncoder", "prompts": encoder.settings.prompts, "similarity_fn_name": "dot"}
    return _Content(_modules.sparse(), told, "fill-mask", encoder.max_length, check)


def _multivector(encoder: MultiVectorEncoder) -> _Content:
    prompts = encoder.settings.prompts

    def check(peer: Any, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        texts = _fitting(encoder, prompts)
        model = peer.MultiVectorEncoder(str(folder), device="cpu").float()
        theirs = [
            *model.encode_query(texts, show_progress_bar=False, convert_to_numpy=True),
            *model.encode_document(texts, show_progress_bar=False, convert_to_numpy=True),
        ]
        ours = [encoder.encode(texts, prompt=side).vectors for side in (QUERY, DOCUMENT)]
        return np.concatenate(ours), np.concatenate(theirs)

    told = {"model_type": "MultiVectorEncoder", "prompts": prompts, "similarity_fn_name": "maxsim"}
    length = encoder.settings.query_length
    filling = {"strategy": "min", "attend": True, "token": encoder.tokenizer.roles["mask"], "length": length}
    more = {} if length is None else {"query_expansion": filling}
    return _Content(_modules.multivector(encoder), told, "feature-extraction", encoder.max_length, check, more)


def _ranker(predictor: Predictor) -> _Content:
    task = predictor.task
    if not isinstance(task, PassageRanking):
        raise SettingsError("Of fine-tuned models only those of the task 'rank' are exported to sentence-transformers.")
    check_matching(task, predictor.metadata, ".")

    def check(peer: Any, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        query, texts = "encoder", ["", "a text", "word", "an encoder"]
        model = peer.CrossEncoder(str(folder), device="cpu").float()
        pairs = [(query, text) for text in texts]
        plain = importlib.import_module("torch").nn.Identity()
        theirs = model.predict(pairs, activation_fn=plain, show_progress_bar=False)
        return predictor.score(query, texts).astype(np.float32), np.asarray(theirs, np.float32)

    told = {"model_type": "CrossEncoder", "prompts": {}, "activation_fn": SIGMOID}
    modules = _modules.ranker(predictor, task.pooling, task.head_lr_scale)
    return _Content(modules, told, "feature-extraction", predictor.preprocessor.max_length, check)


def _fitting(
    encoder: DenseEncoder | sparse.SparseEncoder | MultiVectorEncoder, prompts: Mapping[str, str] | None = None
) -> list[str]:
    """The sentences that the model reads whole, whichever of the prompts goes before them."""

    def fits(text: str) -> bool:
        return len(encoder.tokenizer.encode(text)) <= encoder.max_content_tokens

    return [text for text in SENTENCES if all(fits(before + text) for before in ["", *(prompts or {}).values()])]


def _reads(content: _Content) -> dict[str, Any]:
    """sentence_bert_config.json: the length, and for a transformer that is not one of embeddings its task."""
    if content.task is None:
        return {"max_seq_length": content.length, "do_lower_case": False}
    how = {"text": {"method": "forward", "method_output_name": READS[content.task]}}
    told = {"transformer_task": content.task, "modality_config": how, "module_output_name": "token_embeddings"}
    return {**told, "max_seq_length": content.length, **content.more}


def _write_modules(folder: Path, content: _Content) -> None:
    listed = []
    for place, module in enumerate(content.modules):
        path = "" if module.name == "Transformer" else f"{place}_{module.name}"
        listed.append({"idx": place, "name": str(place), "path": path, "type": module.type})
        (folder / path).mkdir(exist_ok=True)
        if module.config is not None:
            _write_json(folder / path / "config.json", module.config)
        if module.tensors:
            write_tensors(folder / path / WEIGHTS, module.tensors)
    _write_json(folder / "modules.json", listed)
    _write_json(folder / "config_sentence_transformers.json", {**content.told, "default_prompt_name": None})


def _check_peer(draft: Draft, content: _Content, dtype: str) -> dict[str, Any]:
    """The largest difference from what the peer computes; nothing where it is not installed. Raises `ArtifactError`."""
    if importlib.util.find_spec(PEER) is None:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = importlib.import_module(PEER)
        try:
            ours, theirs = content.check(peer, draft.path)
        except Exception as error:
            raise ArtifactError(
                f"{PEER} {peer.__version__} cannot load the export: {error}. With verify_with_peer=false it is written unasked."
            ) from error
    apart = float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-12)) if ours.size else 0.0
    if not apart <= TOLERANCE[dtype]:
        raise ArtifactError(
            f"The export's outputs drift from the model's: in {PEER} {peer.__version__} they are off by {apart:.1e} of "
            f"the largest value, {TOLERANCE[dtype]:.0e} allowed. Nothing was written."
        )
    return {"drift_sentence_transformers": apart, PEER: peer.__version__}


def _write_json(path: Path, table: Any) -> None:
    atomic_write(path, json.dumps(table, indent=2, ensure_ascii=False) + "\n")
