"""Bodies of the requests of OpenAI, Cohere, Jina and text-embeddings-inference (TEI), and our own.

Types are strict (a number is not accepted as a text), and an unknown field is an error, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from encodery.search.modes import MAX_QUERY_CHARS

Policy = Literal["error", "right", "left", "chunk"]
MAX_TOKEN_ID = (1 << 31) - 1
Token = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
Model = Annotated[str | None, Field(description="The model; if none is named, the first one with the operation.")]


class RequestBody(BaseModel):
    """The settings of all bodies. A field that is null is absent, as clients that send every field expect."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in body.items() if value is not None or name not in optional}


class TruncatingBody(RequestBody):
    """A body with a policy for texts that are too long."""

    model: Model = None
    truncate: Annotated[
        bool | Policy | None,
        Field(description="error, right, left or chunk; true truncates at `truncation_direction`."),
    ] = None
    truncation_direction: Literal["Right", "Left", "right", "left"] = "Right"

    def policy(self) -> str | None:
        """The policy of the request; None for the server's."""
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
    """One text and the texts that it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(TruncatingBody):
    """How the texts are encoded."""

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
    """A document of a rerank request."""

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
    fields = body if isinstance(body, dict) else {}
    return COHERE_DIALECT if "documents" in fields or isinstance(body, RerankBody) else TEI_DIALECT


TEI_DIALECT, COHERE_DIALECT = "TEI's", "Cohere's"
AnyRerankBody = Annotated[
    Annotated[TeiRerankBody, Tag(TEI_DIALECT)] | Annotated[RerankBody, Tag(COHERE_DIALECT)], Discriminator(_dialect)
]
"""The body of `/rerank`, which accepts both formats."""


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
    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    one_by_one: bool = False
    model: Model = None


class TagBody(TruncatingBody):
    """`/tag`: spans in characters; `types`: the labels to find, for models whose labels are prompts."""

    inputs: str | list[str]
    types: list[str] | None = None


class AnswerBody(TruncatingBody):
    """`/answer`: one question about one context, or equal numbers of both."""

    question: str | list[str]
    context: str | list[str]


class EmbedHead(RequestBody):
    """The fields of `/embed`."""

    route: Literal["embed"]
    model: Model = None
    normalize: bool = True
    prompt_name: str | None = None
    dimensions: Annotated[int | None, Field(ge=1, le=1 << 20)] = None


class StatesHead(RequestBody):
    """The fields of `/embed_all`."""

    route: Literal["embed_all"]
    model: Model = None
    prompt_name: str | None = None


class PredictHead(RequestBody):
    """The fields of `/predict`, for single texts."""

    route: Literal["predict"]
    model: Model = None


class TagHead(RequestBody):
    """The fields of `/tag`."""

    route: Literal["tag"]
    model: Model = None
    types: list[str] | None = None


class HeadsBody(RequestBody):
    """`/v1/heads`: several heads for the same texts, each under a name of the client; `truncate` is for all."""

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
    """`/search`, as `encodery search query`. `weight`: of all models together, against BM25; `weights`: by mode;
    `rerank_weight`: of the reranker's score, against the score of the retrievers."""

    query: Annotated[str, Field(max_length=MAX_QUERY_CHARS)]
    top_k: Annotated[int, Field(ge=1, le=1000)] = 10
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
    """The fields of an error."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The body of every error of every route."""

    error: ErrorTable


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        400: "The request is invalid; `code` says why",
        401: "No key, or an invalid one",
        404: "No such model or route",
        408: "The body did not arrive in time",
        413: "The body is too large",
        415: "The body is not JSON",
        429: "Too many requests are waiting; see Retry-After",
        500: "The model failed at this input",
        503: "The server is stopping, or not ready",
    }.items()
}
