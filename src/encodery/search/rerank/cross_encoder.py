"""Reranking by a cross-encoder: a model that reads query and passage together and returns one score. arXiv:1901.04085

The model is one that `encodery finetune rank` wrote, or the folder of a stock cross-encoder of Hugging Face. A passage
that is too long is read in windows, of which the best counts, whatever the model does with long texts elsewhere.
Shapes: N texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from encodery.base.errors import InputError, SettingsError
from encodery.base.parts import name_of
from encodery.finetune.predict import Predictor
from encodery.model.load import load_model
from encodery.search.rerank import Reranker, Scorer


@dataclass(frozen=True, kw_only=True)
class CrossEncoder(Reranker):
    """Use it for the best quality, at one run of the model per passage and query.

    Args:
        model: the folder of a model fine-tuned for the task `rank`, or of a stock cross-encoder with one output.

    Example: `encodery search query index "storm at sea" --rerank runs/ranker`
    """

    model: str

    def __post_init__(self) -> None:
        if not self.model:
            raise SettingsError("model = '': give the folder of a model fine-tuned for the task 'rank'.")

    def open(self) -> Scorer:
        predictor = Predictor.from_model(load_model(self.model))
        if name_of(predictor.task) != "rank":
            raise InputError(
                f"{self.model}: is a model of the task '{name_of(predictor.task)}'; one of 'rank' is needed to rerank."
            )
        return replace(predictor, preprocessor=replace(predictor.preprocessor, truncate="chunk"))
