"""Bodies of the requests, as OpenAI, Cohere, Jina and text-embeddings-inference have them, and our own.

Types are strict (a number is no text) and a field that is not known is refused, so that no wish is silently ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

Policy = Literal["error", "right", "left", "chunk"]
MAX_TOKEN_ID = (1 << 31) - 1
Token = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
Model = Annotated[str | None, Field(description="Which model; the first that can do it where none is named.")]


class RequestBody(BaseModel):
    """What all bodies share."""

    model_config = ConfigDict(strict=True, extra="forbid")


class TruncatingBody(RequestBody):
    """With a policy for texts that are too long."""

    model: Model = None
    truncate: Annotated[
        bool | Policy | None, Field(description="error, right, left or chunk; true cuts at `truncation_direction`.")
    ] = None
    truncation_direction: Literal["Right", "Left", "right", "left"] = "Right"

    def policy(self) -> str | None:
        """The policy that is asked for; None for the server's."""
        if isinstance(self.truncate, bool):
            return self.truncation_direction.lower() if self.truncate else "error"
        return self.truncate


class EmbeddingsBody(RequestBody):
    """OpenAI `/v1/embeddings`; `truncate` and `prompt_name` are ours."""

    input: str | list[str] | list[Token] | list[list[Token]]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(ge=1, le=1 << 20)] = None
    user: str | None = None
    truncate: Policy | None = None
    prompt_name: str | None = None


class EmbedBody(TruncatingBody):
    """TEI `/embed`."""

    inputs: str | list[str] | list[Token] | list[list[Token]]
    normalize: bool = True
    prompt_name: str | None = None
    dimensions: Annotated[int | None, Field(ge=1, le=1 << 20)] = None


class TextsBody(TruncatingBody):
    """TEI `/embed_all` and `/embed_sparse`."""

    inputs: str | list[str]
    prompt_name: str | None = None


class SimilarityInputs(RequestBody):
    """One text and those it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(TruncatingBody):
    """How the texts are read."""

    prompt_name: str | None = None


class SimilarityBody(RequestBody):
    """TEI `/similarity`."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None
    model: Model = None


class TeiRerankBody(TruncatingBody):
    """TEI `/rerank`."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class RerankDocument(RequestBody):
    """A document of a rerank."""

    text: str


class RerankBody(RequestBody):
    """Cohere and Jina `/v1/rerank`, `/v2/rerank`; `truncate` is ours."""

    model: Model = None
    query: str
    documents: list[str | RerankDocument]
    top_n: Annotated[int | None, Field(ge=1, le=1 << 31)] = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int | None, Field(ge=1, le=1 << 31)] = None
    truncate: Policy | None = None


def _dialect(body: Any) -> str:
    given = body if isinstance(body, dict) else {}
    return COHERE_DIALECT if "documents" in given or isinstance(body, RerankBody) else TEI_DIALECT


TEI_DIALECT, COHERE_DIALECT = "TEI's", "Cohere's"
AnyRerankBody = Annotated[
    Annotated[TeiRerankBody, Tag(TEI_DIALECT)] | Annotated[RerankBody, Tag(COHERE_DIALECT)], Discriminator(_dialect)
]
"""Of `/rerank`, where both are understood."""


class PredictBody(TruncatingBody):
    """TEI `/predict`: a text, a pair [a, b], or a batch of [text] and [a, b]."""

    inputs: str | list[str] | list[list[str]]
    raw_scores: Literal[False] = False


class TokenizeBody(RequestBody):
    """TEI `/tokenize`."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    model: Model = None


class FillBody(RequestBody):
    """`/fill`: texts with [MASK]."""

    inputs: str | list[str]
    top: Annotated[int, Field(ge=1, le=1000)] = 5
    one_by_one: bool = False
    model: Model = None


class TagBody(TruncatingBody):
    """`/tag`: spans in characters; `types`, for models that find spans by labels given as prompts."""

    inputs: str | list[str]
    types: list[str] | None = None


class AnswerBody(TruncatingBody):
    """`/answer`: one question on one context, or as many of each."""

    question: str | list[str]
    context: str | list[str]


class EmbedHead(RequestBody):
    """As `/embed`."""

    route: Literal["embed"]
    model: Model = None
    normalize: bool = True
    prompt_name: str | None = None
    dimensions: Annotated[int | None, Field(ge=1, le=1 << 20)] = None


class StatesHead(RequestBody):
    """As `/embed_all`."""

    route: Literal["embed_all"]
    model: Model = None
    prompt_name: str | None = None


class PredictHead(RequestBody):
    """As `/predict`, of single texts."""

    route: Literal["predict"]
    model: Model = None


class TagHead(RequestBody):
    """As `/tag`."""

    route: Literal["tag"]
    model: Model = None
    types: list[str] | None = None


class HeadsBody(RequestBody):
    """`/v1/heads`: what is wanted of the same texts, each under a name of the client's; `truncate` is of all."""

    input: str | list[str]
    heads: Annotated[
        dict[
            Annotated[str, Field(min_length=1, max_length=64)],
            Annotated[EmbedHead | StatesHead | PredictHead | TagHead, Discriminator("route")],
        ],
        Field(min_length=1, max_length=16),
    ]
    truncate: Policy | None = None


class SearchBody(RequestBody):
    """`/search`, as `encodery search query`. `weight`: the share of all models beside words; `weights`: by side.
    `rerank_weight`: the reranker's share beside what found the passages."""

    query: str
    top: Annotated[int, Field(ge=1, le=1000)] = 10
    mode: Literal["hybrid", "dense", "sparse", "multi_vector", "bm25"] | None = None
    filters: list[str] = []
    per_document: Annotated[int | None, Field(ge=1, le=1 << 31)] = None
    weight: Annotated[float | None, Field(ge=0, le=1)] = None
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    fusion: Literal["scores", "ranks"] = "scores"
    rerank: bool | None = None
    rerank_top_k: Annotated[int, Field(ge=1, le=1000)] = 30
    rerank_weight: Annotated[float | None, Field(ge=0, le=1)] = None


class ErrorTable(BaseModel):
    """What an error holds."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """Every error of every route."""

    error: ErrorTable


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": told}
    for status, told in {
        400: "The request cannot be used; `code` says why",
        401: "No key, or a wrong one",
        404: "No such model or route",
        408: "The body came too slowly",
        413: "The body is too large",
        415: "The body is no JSON",
        429: "Too much waits; see Retry-After",
        500: "The model failed at this input",
        503: "Stopping, or not ready",
    }.items()
}
