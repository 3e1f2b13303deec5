"""Bodies of the requests of OpenAI, Cohere, Jina and text-embeddings-inference (TEI), and our own.

Types are strict (a number is not accepted as a text), and an unknown field is an error, never ignored; the error names
the field that has the meaning which the unknown one has at other services.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from encodery.base.errors import nearest
from encodery.search.modes import MAX_QUERY_CHARS

COHERE_POLICIES = {"NONE": "error", "END": "right", "START": "left"}
Policy = Annotated[
    Literal["error", "right", "left", "chunk", "NONE", "END", "START"],
    AfterValidator(lambda policy: COHERE_POLICIES.get(policy, policy)),
]
"""What happens to a text that is too long, in our words or Cohere's."""
MAX_TOKEN_ID = (1 << 31) - 1
Token = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
Model = Annotated[str | None, Field(description="The model; if none is named, the first one with the operation.")]


UNKNOWN_FIELD = "unknown_field"
"""The type of the validation error of an unknown field; its context has `field` and `hint`."""
SYNONYMS = (
    ("top_n", "top_k", "top", "k", "limit"),
    ("input", "inputs", "texts", "text", "sentences", "content"),
    ("documents", "texts", "passages", "docs"),
    ("query", "q", "question"),
    ("truncate", "truncation", "truncate_prompt_tokens", "auto_truncate"),
    ("encoding_format", "embedding_types", "embedding_type", "output_dtype"),
    ("prompt_name", "input_type", "task", "task_type", "prompt"),
    ("dimensions", "output_dimension", "output_dimensionality", "truncate_dim", "dimension", "dim"),
    ("normalize", "normalized", "normalise"),
    ("return_documents", "return_text"),
    ("max_tokens_per_doc", "max_length"),
    ("filters", "filter", "where"),
    ("types", "labels", "entities"),
    ("model", "model_id", "model_name"),
)
"""Fields of one meaning, here and at other services."""


class RequestBody(BaseModel):
    """The settings of all bodies. A field that is null is absent, as clients that send every field expect."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        known = set(cls.model_fields)
        elsewhere = {name for group in SYNONYMS for name in group} - known
        optional = elsewhere | {name for name in known if not cls.model_fields[name].is_required()}
        fields = {name: value for name, value in body.items() if value is not None or name not in optional}
        unknown = next((name for name in fields if name not in known), None)
        if unknown is not None and cls.model_config.get("extra") != "allow":
            context = {"field": str(unknown)[:200], "hint": _hint(str(unknown), known)}
            raise PydanticCustomError(UNKNOWN_FIELD, "'{field}' is not a field of this request.{hint}", context)
        return fields

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Say in the document of the routes that every field that may be absent may be null."""
        schema = handler(core_schema)
        table = handler.resolve_ref_schema(schema)
        for name, field in table.get("properties", {}).items():
            kinds = field.get("anyOf", [])
            if name not in table.get("required", ()) and {"type": "null"} not in kinds:
                kept = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
                table["properties"][name] = {"anyOf": [*(kinds or [field]), {"type": "null"}], **kept}
        return schema


def _hint(unknown: str, known: set[str]) -> str:
    """The field that has the meaning of an unknown one, as a sentence."""
    groups = (group for group in SYNONYMS if unknown in group)
    same = next((name for group in groups for name in group if name in known), None)
    return f" Use '{same}'." if same is not None else nearest(unknown, sorted(known))


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
    """OpenAI `/v1/embeddings`; `truncate` and `prompt_name` are ours. `user` and `priority` have no effect."""

    input: str | list[str] | list[Token] | list[list[Token]]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(ge=1, le=1 << 20)] = None
    user: str | None = None
    priority: int | None = None
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
    """A document of a rerank request, with any further fields."""

    model_config = ConfigDict(extra="allow")

    text: str | None = None


class RerankBody(RequestBody):
    """Cohere and Jina `/v1/rerank`, `/v2/rerank`; `truncate` is ours. `rank_fields`: the fields with the text of
    documents that are objects. `user`, `priority` and `max_chunks_per_doc` have no effect."""

    model: Model = None
    query: str
    documents: list[str | RerankDocument]
    top_n: Annotated[int | None, Field(ge=1, le=1 << 31)] = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int | None, Field(ge=1, le=1 << 31)] = None
    max_chunks_per_doc: Annotated[int | None, Field(ge=1, le=1 << 31)] = None
    rank_fields: Annotated[list[str] | None, Field(min_length=1, max_length=100)] = None
    priority: int | None = None
    user: str | None = None
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
        403: "The Host header is not a name of this server",
        404: "No such model or route",
        408: "The body did not arrive in time",
        413: "The body is too large",
        415: "The body is not JSON",
        429: "Too many requests are waiting; see Retry-After",
        500: "The model failed at this input",
        503: "The server is stopping, or not ready",
    }.items()
}
