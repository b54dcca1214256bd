"""What requests and answers look like. The checks of values are those of the library."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

# Queries of a request, results of a query, items of a list of ids, components of a vector.
MOST_QUERIES = 64
MOST_RESULTS = 1000
MOST_IDS = 100_000
MOST_HITS = 10_000
MOST_COMPONENTS = 1 << 16
MOST_CHAINS = 100

_INT64 = 1 << 63

Id = (
    Annotated[int, Field(ge=-_INT64, lt=_INT64)]
    | Annotated[str, Field(min_length=1, max_length=4096)]
)
Vector = Annotated[list[FiniteFloat], Field(min_length=1, max_length=MOST_COMPONENTS)]
Ids = Annotated[list[Id], Field(max_length=MOST_IDS)]
Values = Annotated[list[FiniteFloat], Field(max_length=MOST_HITS)]


class Request(BaseModel):
    """A body in JSON: numbers are numbers, and there are no further fields."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class QueryParameters(Request):
    """Parameters of queries, those of the index by default."""

    query_k: Annotated[int, Field(ge=1, le=MOST_RESULTS)] | None = Field(
        None, description="Number of neighbours that the observation of a query has."
    )
    weight: FiniteFloat | None = Field(
        None, description="Weight of neighbourhood and first stage in the fusion, at least 0."
    )
    cautious: bool | None = Field(
        None, description="Stay near the first stage where the confidence is low."
    )


class SearchOptions(QueryParameters):
    """What a search is given besides its queries."""

    k: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = Field(
        10, description="Number of results of each query."
    )
    allow: Ids | None = Field(None, description="Only items with these ids are in the results.")
    containing: Annotated[str, Field(max_length=1000)] | None = Field(
        None,
        description="Only items whose id as text contains this, in upper or lower case; where there"
        " are photos, items whose name contains it.",
    )
    first: bool = Field(False, description="Also return the results of the first stage.")


class SearchRequest(SearchOptions):
    """Queries: vectors, or items that others like them are wanted of."""

    vectors: Annotated[list[Vector], Field(min_length=1, max_length=MOST_QUERIES)] | None = None
    items: Annotated[list[Id], Field(min_length=1, max_length=MOST_QUERIES)] | None = Field(
        None, description="Ids of items; an item is left out of its own results."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        _exactly_one(vectors=self.vectors, items=self.items)
        return self


class Hits(Request):
    """The results of another engine for one query, best first."""

    ids: Annotated[list[Id], Field(max_length=MOST_HITS)]
    scores: Values | None = None
    distances: Values | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        _exactly_one(scores=self.scores, distances=self.distances)
        return self


class RerankRequest(QueryParameters):
    """Hits to re-rank."""

    hits: Annotated[list[Hits], Field(min_length=1, max_length=MOST_QUERIES)] = Field(
        description="One list for each query; all with scores, or all with distances."
    )
    squared: bool | None = Field(
        None, description="Whether Euclidean distances are squared; required for them."
    )
    k: Annotated[int, Field(ge=1, le=MOST_RESULTS)] | None = Field(
        None, description="Number of results of each query; by default as many as it has hits."
    )
    allow: Ids | None = Field(None, description="Only these ids are in the results.")
    restrict_to_candidates: bool = Field(False, description="Only reorder the hits.")

    @model_validator(mode="after")
    def _all_alike(self) -> Self:
        if len({hits.scores is None for hits in self.hits}) > 1:
            raise ValueError("hits: expected scores for all queries, or distances for all")
        return self


class ExplainRequest(QueryParameters):
    """A query, and the item whose place in its ranking is to be explained."""

    id: Id = Field(description="The item that is explained.")
    vector: Vector | None = None
    item: Id | None = Field(
        None, description="An item as the query. It is left out of the rankings."
    )
    hits: Hits | None = None
    squared: bool | None = None
    k: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = 100
    n_chains: Annotated[int, Field(ge=1, le=MOST_CHAINS)] = 3

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        _exactly_one(vector=self.vector, item=self.item, hits=self.hits)
        return self


class ItemsRequest(Request):
    """A change of the collection. An item that is both removed and added is replaced."""

    ids: Ids | None = Field(
        None, description="Those of the new items; without, items are numbered on, if they are."
    )
    vectors: Annotated[list[Vector], Field(min_length=1, max_length=MOST_IDS)] | None = None
    remove: Annotated[list[Id], Field(min_length=1, max_length=MOST_IDS)] | None = None


def _exactly_one(**given: Any) -> None:
    present = [name for name, value in given.items() if value is not None]
    if len(present) != 1:
        raise ValueError(
            f"{', '.join(given)}: expected one of them, got {' and '.join(present) or 'none'}"
        )


# --- answers --------------------------------------------------------------------------------------


class Scored(BaseModel):
    """An item with its score."""

    id: int | str
    score: float


class Result(Scored):
    """A result of a search."""

    first_rank: int | None = Field(
        default=None,
        description="Its rank in the first stage, from 1; null if that does not list it. Present "
        "only with `first`.",
    )


class Reranked(Scored):
    """A re-ranked hit."""

    new: bool = Field(description="Whether it was not among the hits of the query.")


class SearchResults(BaseModel):
    """The results of one query."""

    results: list[Result]
    first: list[Scored] | None = Field(
        default=None, description="Those of the first stage. Present only with `first`."
    )
    confidence: float | None = Field(
        description="Confidence in the ranking, from 0 to 1; null without a fusion."
    )
    relevant: int | None = Field(
        description="Estimated number of relevant items, without the item that is the query;"
        " null without a fusion."
    )


class RerankResults(BaseModel):
    """The re-ranked hits of one query."""

    results: list[Reranked]


class Answer(BaseModel):
    """An answer from one state of the collection."""

    version: int = Field(description="The state of the collection; it grows with each change.")


class Named(Answer):
    """An answer with the names of photos."""

    names: dict[str, str] | None = Field(
        default=None,
        description="The names of the items of the answer, by id as text. Present only where there"
        " are photos.",
    )


class SearchAnswer(Named):
    """The results of all queries, in their order."""

    queries: list[SearchResults]


class PhotoAnswer(SearchAnswer):
    """The results for a photo."""

    vectors: list[list[float]] = Field(
        description="What describes the photo, for further searches and for explanations."
    )


class RerankAnswer(Answer):
    """The re-ranked hits of all queries, in their order."""

    queries: list[RerankResults]


class ExplainAnswer(Named):
    """Why an item stands where it does."""

    explanation: dict[str, Any] = Field(
        description="The attributes of `diffusion.Explanation`, as its `as_dict` returns them."
    )
    text: str


class ItemsAnswer(Answer):
    """The collection after a change."""

    items: int = Field(description="Number of items.")


class InfoAnswer(Answer):
    """What the collection is."""

    model_config = ConfigDict(extra="allow")

    items: int
    dimension: int | None
    metric: str


class Health(BaseModel):
    """That the service answers."""

    status: str
    version: int


class Invalid(BaseModel):
    """A place in a request, and what is wrong with it."""

    loc: list[str]
    msg: str


class Problem(BaseModel):
    """An error."""

    detail: str | list[Invalid]
