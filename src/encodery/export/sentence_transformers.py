"""A folder that stock sentence-transformers loads, with the embeddings or scores that the model gives here.

`SentenceTransformer(folder)` for dense embeddings, `SparseEncoder(folder)` for sparse term weights,
`MultiVectorEncoder(folder)` for multi-vector embeddings, `CrossEncoder(folder)` for a model of the task `rank`. The
folder has the files of `hf`, and pooling, post-processing, prompts and length: linear steps (whitening, centring,
Matryoshka truncation) become a Dense layer, and a static model (`encoders/static.py`) becomes a StaticEmbedding. If
sentence-transformers is installed, its outputs for a few texts are compared.
Shapes: N texts, K dimension of an embedding, V vocabulary.
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
from encodery.encoders import DOCUMENT, QUERY
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.loading import encoder_name, load_encoder
from encodery.encoders.model_encoder import ModelEncoder
from encodery.encoders.multi_vector import MultiVectorEncoder
from encodery.encoders.postprocess.normalise import Normalise
from encodery.encoders.single_vector import SingleVectorEncoder
from encodery.encoders.sparse import SparseEncoder
from encodery.encoders.static import StaticEncoder
from encodery.export import Exporter, ExportResult, _modules
from encodery.export._card import CardTexts
from encodery.export._folder import FolderExport, Precision
from encodery.export._heads import require_no_token_matching
from encodery.export._modules import Module
from encodery.export._verify import SENTENCES, TOLERANCE
from encodery.finetune.predict import Predictor
from encodery.finetune.tasks.rank import PassageRanking
from encodery.model.checkpoint import WEIGHTS, write_tensors
from encodery.model.load import LoadedModel, copy_tokenizer

PEER = "sentence_transformers"
SIGMOID = "torch.nn.modules.activation.Sigmoid"
OUTPUT_NAMES = {"fill-mask": "logits", "feature-extraction": "last_hidden_state"}
"""Task of the transformer → the output that the next module reads."""
Outputs = Callable[[Any, Path], tuple[np.ndarray, np.ndarray]]
"""The peer's package and the folder → our outputs, and those of the folder in the peer."""


@dataclass(frozen=True)
class _Content:
    """What is written for one kind of model.

    `modules` in order; `config` of config_sentence_transformers.json; `task` of the transformer (None: embeddings) and
    its `max_length`; `outputs` for the comparison with the peer; further `settings` of the transformer.
    """

    modules: list[Module]
    config: dict[str, Any]
    task: str | None
    max_length: int
    outputs: Outputs
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SentenceTransformersExporter(Exporter):
    """Use it to run a model in sentence-transformers.

    `checkpoint_format`, `dtype`, `title` and `license` as in `hf`. `verify_with_peer`: whether outputs are compared
    with those of transformers and of sentence-transformers, if they are installed.

        encodery model export MODEL --format sentence_transformers --out FOLDER
    """

    checkpoint_format: str | None = None
    dtype: Precision | None = None
    verify_with_peer: bool = True
    title: str | None = None
    license: str | None = None

    def write(self, loaded: LoadedModel, folder: Path, overwrite: bool = False) -> ExportResult:
        is_static = "task" not in loaded.settings and encoder_name(loaded.settings) == "static"
        export = None if is_static else FolderExport(loaded, self.checkpoint_format, self.dtype)
        content = _content(loaded)
        format_name = "static" if export is None else export.format_name
        settings = {"export": encode(self), "format": format_name}
        parents = {"model": loaded.artifact} if loaded.artifact is not None else None
        with create_artifact(folder, "export", settings, parents, overwrite=overwrite) as draft:
            if export is not None:
                export.write(draft, self.verify_with_peer)
                _write_json(draft.path / "sentence_bert_config.json", _transformer_config(content))
            elif loaded.tokenizer_path is not None:
                copy_tokenizer(loaded.tokenizer_path, draft.path / "0_StaticEmbedding")
            _write_modules(draft.path, content)
            if self.verify_with_peer:
                draft.metrics |= _check_peer(draft, content, "float32" if export is None else export.dtype)
            if export is not None:
                export.write_card(draft, folder, CardTexts(title=self.title, licence=self.license))
            metrics = dict(draft.metrics)
        return ExportResult(artifact=Artifact.open(folder, "export"), format=format_name, metrics=metrics)


def _content(loaded: LoadedModel) -> _Content:
    """What is written for a model. Raises `SettingsError` for a task or an encoding that the library does not have."""
    if "task" in loaded.settings:
        return _ranker(Predictor.from_model(loaded, "cpu"))
    encoder = load_encoder(loaded, "cpu")
    if isinstance(encoder, DenseEncoder):
        return _single_vector(encoder, _modules.dense(encoder))
    if isinstance(encoder, StaticEncoder):
        return _single_vector(encoder, _modules.static(encoder))
    if isinstance(encoder, SparseEncoder):
        return _sparse(encoder)
    if isinstance(encoder, MultiVectorEncoder):
        return _multi_vector(encoder)
    raise SettingsError(f"{encoder.kind} embeddings have no counterpart in sentence-transformers.")


def _single_vector(encoder: SingleVectorEncoder, modules: list[Module]) -> _Content:
    steps = encoder.postprocessing.steps
    similarity = "cosine" if steps and isinstance(steps[-1], Normalise) else "dot"
    config = {"prompts": dict(encoder.prompts), "similarity_fn_name": similarity}

    def outputs(peer: Any, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        texts = _short_sentences(encoder)
        model = peer.SentenceTransformer(str(folder), device="cpu").float()
        return encoder.encode(texts).vectors, model.encode(texts, show_progress_bar=False)

    return _Content(modules, config, None, encoder.max_length, outputs)


def _sparse(encoder: SparseEncoder) -> _Content:
    if encoder.settings.terms == "tokens" or encoder.settings.query_encoding == "bow":
        raise SettingsError(
            "terms = 'tokens' and query_encoding = 'bow' have no counterpart in sentence-transformers; only term "
            "weights over the vocabulary, for queries and documents, do."
        )

    def outputs(peer: Any, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        texts = _short_sentences(encoder)
        model = peer.SparseEncoder(str(folder), device="cpu").float()
        theirs = model.encode(texts, show_progress_bar=False, convert_to_tensor=True).to_dense().numpy()
        embeddings, ours = encoder.encode(texts), np.zeros((len(texts), encoder.dimension), np.float32)
        for number in range(len(texts)):
            terms, weights = embeddings.at(number)
            ours[number, terms] = weights
        return ours, theirs

    config = {"model_type": "SparseEncoder", "prompts": encoder.settings.prompts, "similarity_fn_name": "dot"}
    return _Content(_modules.sparse(), config, "fill-mask", encoder.max_length, outputs)


def _multi_vector(encoder: MultiVectorEncoder) -> _Content:
    prompts = encoder.settings.prompts

    def outputs(peer: Any, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        texts = _short_sentences(encoder, prompts)
        model = peer.MultiVectorEncoder(str(folder), device="cpu").float()
        theirs = [
            *model.encode_query(texts, show_progress_bar=False, convert_to_numpy=True),
            *model.encode_document(texts, show_progress_bar=False, convert_to_numpy=True),
        ]
        ours = [encoder.encode(texts, prompt=role).vectors for role in (QUERY, DOCUMENT)]
        return np.concatenate(ours), np.concatenate(theirs)

    config = {"model_type": "MultiVectorEncoder", "prompts": prompts, "similarity_fn_name": "maxsim"}
    length = encoder.settings.query_length
    expansion = {"strategy": "min", "attend": True, "token": encoder.tokenizer.roles["mask"], "length": length}
    settings = {} if length is None else {"query_expansion": expansion}
    modules = _modules.multi_vector(encoder)
    return _Content(modules, config, "feature-extraction", encoder.max_length, outputs, settings)


def _ranker(predictor: Predictor) -> _Content:
    task = predictor.task
    if not isinstance(task, PassageRanking):
        raise SettingsError(
            "Of fine-tuned models, only those of the task 'rank' can be exported to sentence-transformers."
        )
    require_no_token_matching(task, predictor.metadata, "")

    def outputs(peer: Any, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        query, texts = "encoder", ["", "a text", "word", "an encoder"]
        model = peer.CrossEncoder(str(folder), device="cpu").float()
        pairs = [(query, text) for text in texts]
        identity = importlib.import_module("torch").nn.Identity()
        theirs = model.predict(pairs, activation_fn=identity, show_progress_bar=False)
        return predictor.score(query, texts).astype(np.float32), np.asarray(theirs, np.float32)

    config = {"model_type": "CrossEncoder", "prompts": {}, "activation_fn": SIGMOID}
    modules = _modules.ranker(predictor, task.pooling, task.head_lr_scale)
    return _Content(modules, config, "feature-extraction", predictor.preprocessor.max_length, outputs)


def _short_sentences(encoder: ModelEncoder, prompts: Mapping[str, str] | None = None) -> list[str]:
    """The sentences that the model reads without truncation, after any of the prompts."""

    def fits(text: str) -> bool:
        return len(encoder.tokenizer.encode(text)) <= encoder.max_content_tokens

    return [text for text in SENTENCES if all(fits(prompt + text) for prompt in ["", *(prompts or {}).values()])]


def _transformer_config(content: _Content) -> dict[str, Any]:
    """The contents of sentence_bert_config.json: the length, and the task of the transformer if it has one."""
    if content.task is None:
        return {"max_seq_length": content.max_length, "do_lower_case": False}
    modalities = {"text": {"method": "forward", "method_output_name": OUTPUT_NAMES[content.task]}}
    return {
        "transformer_task": content.task,
        "modality_config": modalities,
        "module_output_name": "token_embeddings",
        "max_seq_length": content.max_length,
        **content.settings,
    }


def _write_modules(folder: Path, content: _Content) -> None:
    entries = []
    for number, module in enumerate(content.modules):
        path = "" if module.name == "Transformer" else f"{number}_{module.name}"
        entries.append({"idx": number, "name": str(number), "path": path, "type": module.type})
        (folder / path).mkdir(exist_ok=True)
        if module.config is not None:
            _write_json(folder / path / "config.json", module.config)
        if module.tensors:
            write_tensors(folder / path / WEIGHTS, module.tensors)
    _write_json(folder / "modules.json", entries)
    _write_json(folder / "config_sentence_transformers.json", {**content.config, "default_prompt_name": None})


def _check_peer(draft: Draft, content: _Content, dtype: str) -> dict[str, Any]:
    """Return the largest difference from the peer's outputs; {} if the peer is not installed.

    Raises `ArtifactError` if the difference is too large, or if the peer cannot load the folder.
    """
    if importlib.util.find_spec(PEER) is None:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = importlib.import_module(PEER)
        try:
            ours, theirs = content.outputs(peer, draft.path)
        except Exception as error:
            raise ArtifactError(
                f"{PEER} {peer.__version__} cannot load the export: {error}. With verify_with_peer=false it is written "
                "without this check."
            ) from error
    drift = float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), 1e-12)) if ours.size else 0.0
    if not drift <= TOLERANCE[dtype]:
        raise ArtifactError(
            f"The export's outputs drift from the model's: in {PEER} {peer.__version__} they differ by {drift:.1e} of "
            f"the largest value, and {TOLERANCE[dtype]:.0e} is allowed. Nothing was written."
        )
    return {"drift_sentence_transformers": drift, PEER: peer.__version__}


def _write_json(path: Path, table: Any) -> None:
    atomic_write(path, json.dumps(table, indent=2, ensure_ascii=False) + "\n")
