"""Responses in the form that a client accepts: JSON or YAML, indented, compressed, or 304."""

from __future__ import annotations

import io
from typing import Any

from aiohttp import web

from adapter.apiserver import negotiation
from adapter.apiserver.status import StatusError

COMPRESSED_FROM_BYTES = 128 * 1024

_INDENTING_AGENTS = ("curl", "Wget", "Mozilla")


def pretty(request: web.Request) -> bool:
    """Whether people read the answer: `pretty=true`, or a command-line client or browser."""
    parameter = request.query.get("pretty")
    if parameter is not None:
        return parameter in {"1", "true"}
    return request.headers.get("User-Agent", "").startswith(_INDENTING_AGENTS)


def of_bytes(request: web.Request, body: bytes, kind: str, *, status: int = 200) -> web.Response:
    """An encoded body of a content type, compressed where it is large and the client accepts gzip."""
    response = web.Response(body=body, status=status, headers={"Content-Type": kind})
    if len(body) > COMPRESSED_FROM_BYTES:
        response.headers["Vary"] = "Accept-Encoding"
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            response.enable_compression(web.ContentCoding.gzip)
            # Compressed piece by piece, as it is taken, and not as a whole before the first one is sent.
            response.body = io.BytesIO(body)
    return response


def of_document(
    request: web.Request,
    document: Any,
    form: negotiation.Form,
    *,
    status: int = 200,
    indent: bool = False,
) -> web.Response:
    """A document as JSON or YAML; indented where that is set or the client is for people."""
    body, kind = negotiation.write(document, form, pretty=indent or pretty(request))
    return of_bytes(request, body, kind, status=status)


def of_error(request: web.Request, error: StatusError) -> web.Response:
    """A Status in the form that the client accepts, or in JSON if it accepts none that we have."""
    form: negotiation.Form = "json"
    indent = False
    try:
        form = negotiation.accepted(request.headers.get("Accept", "")).form
    except StatusError:
        indent = True
    response = of_document(request, error.document(), form, status=error.code, indent=indent)
    if error.code in {403, 500}:
        response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def with_etag(request: web.Request, body: bytes, tag: str, kind: str) -> web.Response:
    """An encoded body with its ETag, or 304 for a client that has it."""
    headers = {"ETag": f'"{tag}"', "Vary": "Accept"}
    if f'"{tag}"' in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    response = of_bytes(request, body, kind)
    response.headers.update(headers)
    return response
