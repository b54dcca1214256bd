"""The HTTP application of `diffusion serve`.

A request is checked, in the library's own words, with the state of the collection at the time; it
then waits in a queue with what is asked of the same state in the same way, and is answered from
that state. Queries, explanations, updates and photos have a thread each, so that none of them stops
the others, and a bounded queue each, beyond which requests get 503 at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import parse_qs

from ..errors import DiffusionError
from ..page import render
from . import answers
from .answers import Explain, Filter, Rerank, Results, Search
from .batching import Batcher, FullError
from .collection import Collection, NotSavedError, ReadOnlyError, UnchangeableError, View
from .names import NameFilter
from .photos import Photos
from .security import BUSY, Door, Settings

try:
    import python_multipart.exceptions
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from pydantic import BaseModel, ValidationError
    from starlette.datastructures import UploadFile

    from . import metrics, models
    from .description import PUBLIC, UPLOADS, Described
except ModuleNotFoundError as error:
    raise DiffusionError(
        f"serve: {error.name} is not installed (pip install 'diffusion-rerank[serve]')"
    ) from None

_Model = TypeVar("_Model", bound=BaseModel)

# Ids of a request that are checked at once; checking more of them takes a thread of its own.
_FEW = 1000

# Photos that are described together, and that may wait; pictures, and updates.
_PHOTOS, _UPLOADS, _PICTURES, _UPDATES = 8, 32, 256, 8

# Errors of a request that an answer names, the length of what it says of each, and how many it
# does not look at.
_ERRORS, _LENGTH, _MANY = 5, 500, 1000

# The arguments of the library that requests call by other names.
_NAMES = ((r"\b(scores|ids|distances)0\b", r"\1"), (r"^Q:", "vectors:"))

_logger = logging.getLogger(__name__)


# The routes whose requests wait in the queue of queries.
_QUERIES = frozenset({"/search", "/rerank"})


def create_app(
    collection: Collection, *, settings: Settings | None = None, photos: Photos | None = None
) -> FastAPI:
    """Return the application that serves a collection.

    Parameters
    ----------
    collection : Collection
    settings : Settings, optional
    photos : Photos, optional
        Those of the collection: the service then shows them, and searches for uploaded ones.
    """
    settings = settings or Settings()
    service = _Service(collection, settings, photos)
    app = Described(service.handlers(), lifespan=service.lifespan)
    for kind, status in _STATUSES.items():
        app.add_exception_handler(kind, _refusing(status))
    app.add_exception_handler(ValidationError, _invalid)
    app.add_exception_handler(FullError, _busy)
    app.add_middleware(
        Door,
        settings=settings,
        public=PUBLIC,
        uploads=UPLOADS,
        full=service.full,
    )
    app.add_middleware(
        metrics.Counted,
        metrics=service.metrics,
        routes=frozenset({*service.handlers(), "/openapi.json"}),
    )
    return app


class _Service:
    """What the routes do.

    Parameters
    ----------
    collection : Collection
    settings : Settings
    photos : Photos or None
    """

    def __init__(self, collection: Collection, settings: Settings, photos: Photos | None) -> None:
        self._collection, self._settings, self._photos = collection, settings, photos
        self._names = NameFilter(photos.name if photos is not None else str)
        few = max(1, settings.waiting // 8)
        # What each thread answers, how many at once, and how many may wait.
        lanes: dict[str, tuple[Callable[[list[Any]], Any], int, int]] = {
            "queries": (answers.answer, settings.batch, settings.waiting),
            "checks": (_call_each, 1, few),
            "explanations": (answers.explain, 1, few),
            "updates": (_call_each, 1, _UPDATES),
        }
        if photos is not None:
            lanes["photos"] = photos.describe, _PHOTOS, _UPLOADS
            lanes["pictures"] = _call_each, 1, _PICTURES
        self._lanes: dict[str, Batcher] = {}
        self.metrics = metrics.Metrics(list(lanes), self._held, collection.info)
        self._lanes |= {
            name: Batcher(name, answer, most=most, waiting=waiting, watch=self.metrics.batch(name))
            for name, (answer, most, waiting) in lanes.items()
        }
        self._page: str | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Follow what other processes save while the service runs, and end its threads."""
        following = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            for lane in self._lanes.values():
                lane.close()

    def handlers(self) -> dict[str, Callable[[Request], Any]]:
        """Return what answers each route."""
        handlers: dict[str, Callable[[Request], Any]] = {
            "/search": self.search,
            "/rerank": self.rerank,
            "/explain": self.explain,
            "/items": self.items,
            "/info": self.info,
            "/healthz": self.health,
            "/metrics": self.figures,
            "/": self.page,
        }
        if self._photos is None:
            return handlers
        return {**handlers, "/photos": self.photo, "/picture": self.picture}

    def full(self, path: str) -> bool:
        """Return whether queries are refused at present, and the path is one of queries."""
        return path in _QUERIES and self._lanes["queries"].full

    def _held(self, lane: str) -> int:
        return self._lanes[lane].held

    # --- queries ----------------------------------------------------------------------------------

    async def search(self, request: Request) -> Response:
        """Search for vectors, or for what is like items."""
        body = await _parsed(request, models.SearchRequest)
        return _Reply(await self._searched(body, body.vectors, body.items))

    async def photo(self, request: Request) -> Response:
        """Search for an uploaded photo."""
        content, options = await _uploaded(request)
        vector = await self._lanes["photos"].ask(None, content)
        vectors = [vector.tolist()]
        return _Reply({**await self._searched(options, vectors, None), "vectors": vectors})

    async def _searched(
        self, body: models.SearchOptions, vectors: list[Any] | None, items: list[Any] | None
    ) -> dict[str, Any]:
        view, text = self._view(body), body.containing or None

        def checked() -> Search:
            mask = None if text is None else self._names.mask(view, text)
            filter_ = Filter.of(view, body.allow, text, mask)
            return Search.of(view, vectors, items, k=body.k, filter=filter_, first=body.first)

        asked = await self._checked(checked, text is not None or len(body.allow or ()) > _FEW)
        found: Results = await self._lanes["queries"].ask(asked.key, asked, asked.size)
        named = (id for part in (found.ids, found.first_ids or ()) for ids in part for id in ids)
        return {
            "version": view.version,
            "queries": list(_searched_json(found)),
            **self._named(named),
        }

    async def rerank(self, request: Request) -> Response:
        """Re-rank hits of another engine."""
        body = await _parsed(request, models.RerankRequest)
        view, distances = self._view(body), body.hits[0].scores is None

        def checked() -> Rerank:
            values = [(hits.distances if distances else hits.scores) or [] for hits in body.hits]
            return Rerank(
                view,
                [hits.ids for hits in body.hits],
                values,
                distances=distances,
                squared=body.squared,
                k=body.k,
                allow=body.allow,
                restrict=body.restrict_to_candidates,
            )

        count = sum(len(hits.ids) for hits in body.hits) + len(body.allow or ())
        asked = await self._checked(checked, count > _FEW)
        found = await self._lanes["queries"].ask(asked.key, asked, asked.size)
        queries = [
            {
                "results": [
                    {"id": id, "score": score, "new": new}
                    for id, score, new in zip(*lists, strict=True)
                ]
            }
            for lists in zip(*found, strict=True)
        ]
        return _Reply({"version": view.version, "queries": queries})

    async def explain(self, request: Request) -> Response:
        """Explain the place of an item."""
        body = await _parsed(request, models.ExplainRequest)
        view = self._view(body)

        def checked() -> Explain:
            query, hits = None, None
            if body.hits is None:
                query = answers.query_of(view, body.vector, body.item)
            else:
                hits = answers.hits_of(
                    view, body.hits.ids, body.hits.scores, body.hits.distances, body.squared
                )
            return Explain(view, body.id, body.k, body.n_chains, query, hits, body.item)

        asked = await self._checked(checked, body.hits is not None and len(body.hits.ids) > _FEW)
        explanation, text = await self._lanes["explanations"].ask(None, asked)
        chains = [id for chain in explanation["chains"] for id in chain["ids"]]
        named = [explanation["id"], *chains, *(part["id"] for part in explanation["flow"])]
        return _Reply(
            {
                "version": view.version,
                "explanation": explanation,
                "text": text,
                **self._named(named),
            }
        )

    def _view(self, body: models.QueryParameters) -> View:
        return self._collection.view(body.query_k, body.weight, body.cautious)

    async def _checked(self, make: Callable[[], Any], heavy: bool) -> Any:
        """Return what `make` returns, from a thread if it may take a while."""
        return await self._lanes["checks"].ask(None, make) if heavy else make()

    def _named(self, ids: Iterable[Any]) -> dict[str, Any]:
        if self._photos is None:
            return {}
        return {"names": {str(id): self._photos.name(id) for id in dict.fromkeys(ids)}}

    # --- the collection ---------------------------------------------------------------------------

    async def items(self, request: Request) -> Response:
        """Remove and add items."""
        body = await _parsed(request, models.ItemsRequest)

        def update() -> View:
            vectors = None if body.vectors is None else answers.as_matrix(body.vectors)
            return self._collection.update(ids=body.ids, vectors=vectors, remove=body.remove)

        view = await self._lanes["updates"].ask(None, update)
        return _Reply({"version": view.version, "items": view.ranker.n_items_})

    async def info(self, request: Request) -> Response:
        """Return figures and parameters of the collection, and the limits of requests."""
        limits = {
            "queries": models.MOST_QUERIES,
            "results": models.MOST_RESULTS,
            "hits": models.MOST_HITS,
            "ids": models.MOST_IDS,
            "body": self._settings.max_body,
            "photo": self._settings.max_photo,
        }
        upload = self._photos is not None
        return _Reply({**self._collection.info(), "upload": upload, "limits": limits})

    async def _follow(self) -> None:
        """Take up what other processes save."""
        said = None
        while True:
            await asyncio.sleep(self._settings.refresh_seconds)
            try:
                await self._lanes["updates"].ask(None, self._collection.refresh)
                said = None
            except FullError:
                pass  # updates take it up as well
            except Exception as error:
                if str(error) != said:
                    said = str(error)
                    _logger.warning("what is on disk is not served: %s", said)

    # --- the rest ---------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """Say that the service answers."""
        return _Reply({"status": "ok", "version": self._collection.view().version})

    async def figures(self, request: Request) -> Response:
        """Return what this process counts."""
        return Response(self.metrics.text(), headers={"content-type": metrics.CONTENT_TYPE})

    async def page(self, request: Request) -> Response:
        """Return the page, which asks for the token itself."""
        if self._page is None:
            shown = {"mode": "service", "title": self._settings.title}
            self._page = render({**shown, "photos": self._photos is not None})
        # What it may load is in the page itself; only a header can forbid frames.
        return HTMLResponse(
            self._page, headers={"content-security-policy": "frame-ancestors 'none'"}
        )

    async def picture(self, request: Request) -> Response:
        """Return a photo of the collection."""
        photos, query = self._photos, request.scope["query_string"].decode("latin-1")
        assert photos is not None
        # Bytes that are no UTF-8 become what the name of a file in an index has for them.
        ids = parse_qs(query, keep_blank_values=True, errors="surrogateescape").get("id", [])
        named = self._collection.view().ranker.fitted().items.named
        number = len(ids) == 1 and re.fullmatch("-?[0-9]{1,19}", ids[0])
        if len(ids) == 1 and (named or number):
            id = ids[0] if named else int(ids[0])
            picture = await self._lanes["pictures"].ask(None, lambda: photos.picture(id))
            if picture is not None:
                kept = {"cache-control": "private, max-age=3600"}
                return Response(picture, media_type="image/jpeg", headers=kept)
        raise HTTPException(404, "id: no picture")


def _call_each(calls: list[Callable[[], Any]]) -> list[Any]:
    return [call() for call in calls]


def _searched_json(found: Results) -> Iterable[dict[str, Any]]:
    """Yield the results of each query as JSON values."""
    for query, (ids, scores) in enumerate(zip(found.ids, found.scores, strict=True)):
        results = [{"id": id, "score": score} for id, score in zip(ids, scores, strict=True)]
        out: dict[str, Any] = {
            "results": results,
            "confidence": found.confidence[query],
            "relevant": found.relevant[query],
        }
        if found.first_ids is not None:
            assert found.first_scores is not None
            assert found.first_ranks is not None
            first = zip(found.first_ids[query], found.first_scores[query], strict=True)
            out["first"] = [{"id": id, "score": score} for id, score in first]
            for result, rank in zip(results, found.first_ranks[query], strict=True):
                result["first_rank"] = rank
        yield out


# --- bodies ---------------------------------------------------------------------------------------


class _Reply(JSONResponse):
    """JSON in ASCII, which any id can be written in, and without what JSON does not have."""

    def render(self, content: Any) -> bytes:
        """Return the text."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


async def _parsed(request: Request, model: type[_Model]) -> _Model:
    """Return the body of a request as a model, from JSON to values in one pass."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also what keeps pages of others from sending it: browsers ask before they do.
        raise HTTPException(415, "Content-Type: expected application/json")
    return model.model_validate_json(await request.body())


async def _uploaded(request: Request) -> tuple[bytes, models.SearchOptions]:
    """Return the content of the file of a form, and its options; names are ignored."""
    try:
        async with request.form(max_files=1, max_fields=1) as form:
            photo, options = form.get("photo"), form.get("options", "{}")
            others = set(form) - {"photo", "options"}
            if not isinstance(photo, UploadFile) or not isinstance(options, str) or others:
                raise HTTPException(422, "photo: expected one file, and options as a field")
            return await photo.read(), models.SearchOptions.model_validate_json(options)
    except python_multipart.exceptions.FormParserError:
        raise HTTPException(400, "body: expected multipart/form-data") from None


# --- errors ---------------------------------------------------------------------------------------

_STATUSES: dict[type[Exception], int] = {
    DiffusionError: 422,
    UnchangeableError: 409,
    ReadOnlyError: 403,
    NotSavedError: 503,
}


def _refusing(status: int) -> Callable[[Request, Exception], Response]:
    """Return what answers an error of the library with a status and its own message."""

    def answer(request: Request, error: Exception) -> Response:
        detail = str(error)[:_LENGTH]
        for pattern, name in _NAMES:
            detail = re.sub(pattern, name, detail)
        if isinstance(error, NotSavedError):
            _logger.error("an update was not saved: %s", error)
            detail = "the change could not be saved, and has not happened"
        return _Reply({"detail": detail}, status)

    return answer


def _invalid(request: Request, error: Exception) -> Response:
    """Answer a body that is not as described, without any value of it."""
    assert isinstance(error, ValidationError)
    if error.error_count() > _MANY:  # which take long to describe
        return _Reply({"detail": f"body: more than {_MANY} fields are not as described"}, 422)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    detail = [
        {
            "loc": ["body", *(str(part)[:80] for part in one["loc"])],
            "msg": one["msg"].removeprefix("Value error, ")[:_LENGTH],
        }
        for one in found[:_ERRORS]
    ]
    return _Reply({"detail": detail}, 422)


def _busy(request: Request, error: Exception) -> Response:
    return _Reply({"detail": BUSY}, 503, {"retry-after": "1"})
