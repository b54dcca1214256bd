"""The routes of the service as OpenAPI describes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .._version import __version__
from . import models

# Paths that need no token, and those to which the larger limit of photos applies.
PUBLIC = frozenset({"/", "/healthz"})
UPLOADS = frozenset({"/photos"})


class _Picture(Response):
    media_type = "image/jpeg"


class _Route(NamedTuple):
    """A route: what it is for, what it takes and answers, and which errors."""

    summary: str
    description: str
    answer: type[BaseModel] | None
    body: type[BaseModel] | dict[str, Any] | None = None
    errors: tuple[int, ...] = ()
    kind: type[Response] = JSONResponse
    parameters: tuple[dict[str, Any], ...] = ()


# Errors of routes with a body, and of those that a queue is before.
_OF_BODIES = (408, 413, 415, 422, 503)

_FORM = {
    "type": "object",
    "required": ["photo"],
    "additionalProperties": False,
    "properties": {
        "photo": {"type": "string", "format": "binary"},
        "options": {"type": "string", "description": "JSON, see SearchOptions."},
    },
}
_ID = {"name": "id", "in": "query", "required": True, "schema": {"type": "string"}}

_ROUTES = {
    "/search": _Route(
        "Search the collection",
        "Queries are vectors, or items that others like them are wanted of: an item is left out of "
        "its own results. Diffusion passes through all items, whatever the filters.",
        models.SearchAnswer,
        models.SearchRequest,
        _OF_BODIES,
    ),
    "/rerank": _Route(
        "Re-rank hits of another engine",
        "Hits that the collection does not have are kept, with their own evidence.",
        models.RerankAnswer,
        models.RerankRequest,
        _OF_BODIES,
    ),
    "/explain": _Route(
        "Explain the place of an item",
        "The query is a vector, an item, or the hits of another engine. Ranks are those of "
        "/search and /rerank without a filter: an item that is the query is left out.",
        models.ExplainAnswer,
        models.ExplainRequest,
        _OF_BODIES,
    ),
    "/items": _Route(
        "Remove and add items",
        "Both are one change, which is saved when this answers. Searches go on meanwhile, with "
        "the collection as it was.",
        models.ItemsAnswer,
        models.ItemsRequest,
        (403, 409, *_OF_BODIES),
    ),
    "/photos": _Route(
        "Search for an uploaded photo",
        "The answer has the vector of the photo, for further searches and for explanations.",
        models.PhotoAnswer,
        _FORM,
        (400, 408, 413, 422, 503),
    ),
    "/picture": _Route(
        "A photo of the collection",
        "Its longer side has at most 448 pixels.",
        None,
        None,
        (404, 503),
        _Picture,
        (_ID,),
    ),
    "/info": _Route(
        "What the collection is",
        "Its figures and parameters, and the limits of requests.",
        models.InfoAnswer,
    ),
    "/healthz": _Route("Whether the service answers", "It needs no token.", models.Health),
    "/metrics": _Route(
        "What the service counts, for Prometheus",
        "Each worker answers for itself; `diffusion_worker_info` says which one it is.",
        None,
        kind=PlainTextResponse,
    ),
    "/": _Route("The page", "It needs no token, and asks for it.", None, kind=HTMLResponse),
}

_ERRORS = {
    400: "The body is no form",
    401: "The token is missing or wrong",
    403: "The service is read-only",
    404: "There is no such picture",
    408: "The client took too long to send the body",
    409: "The index is of a kind that cannot be changed here",
    413: "The body is too large",
    415: "The body is not said to be JSON",
    422: "The request is not as described; the message says what was expected",
    503: "Too many requests wait; the header Retry-After says when to try again",
}


class Described(FastAPI):
    """An application whose description has the bodies, which its routes parse themselves.

    Parameters
    ----------
    handlers : mapping of str to callable
        What answers each of the routes that the application has.
    **settings : object
        Those of `FastAPI`.
    """

    def __init__(self, handlers: Mapping[str, Callable[[Request], Any]], **settings: Any) -> None:
        super().__init__(
            title="diffusion serve",
            summary="Search and re-ranking by diffusion on a nearest-neighbour graph",
            version=__version__,
            docs_url=None,  # they load scripts from elsewhere
            redoc_url=None,
            redirect_slashes=False,
            **settings,
        )
        for path, handler in handlers.items():
            self._add(path, handler, _ROUTES[path])

    def _add(self, path: str, handler: Callable[[Request], Any], route: _Route) -> None:
        extra: dict[str, Any] = {"parameters": list(route.parameters)} if route.parameters else {}
        if isinstance(route.body, dict):
            extra["requestBody"] = _content("multipart/form-data", route.body)
        elif route.body is not None:
            extra["requestBody"] = _content("application/json", _reference(route.body))
        errors = route.errors
        if path not in PUBLIC:
            errors = (401, *errors)
            extra["security"] = [{"token": []}, {}]  # there may be none
        self.add_api_route(
            path,
            handler,
            methods=["GET" if route.body is None else "POST"],
            response_model=route.answer,
            response_class=route.kind,
            summary=route.summary,
            description=route.description,
            responses={
                status: {"model": models.Problem, "description": _ERRORS[status]}
                for status in errors
            },
            openapi_extra=extra,
        )

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            document = get_openapi(
                title=self.title, version=self.version, summary=self.summary, routes=self.routes
            )
            bodies = [route.body for route in _ROUTES.values()]
            _, described = models_json_schema(
                [(body, "validation") for body in bodies if isinstance(body, type)]
                + [(models.SearchOptions, "validation")],
                ref_template=_TEMPLATE,
            )
            document["components"]["schemas"].update(described["$defs"])
            document["components"]["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer"}
            }
            self.openapi_schema = document
        return self.openapi_schema


_TEMPLATE = "#/components/schemas/{model}"


def _reference(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": _TEMPLATE.format(model=model.__name__)}


def _content(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {kind: {"schema": schema}}}
