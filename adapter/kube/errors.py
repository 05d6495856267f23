"""What a request to the Kubernetes API can end with, as one tree.

* ApiError: any other refusal, such as 400 or 422
  + Unauthorized: 401, the adapter's credentials are not accepted
  + Forbidden: 403, RBAC does not allow the request
  + NotFound: 404, there is no such object or resource
  + Conflict: 409, the object exists already, or was modified since it was read
  + Gone: 410, the resource version is compacted: list again
  + InvalidPath: a name or kind that cannot stand in a URL; nothing was sent
  + Unavailable: no answer, or 5xx: nothing is known about the object, the same request may succeed later
    x Throttled: 429, or 503 with Retry-After: the API server limits the rate, and may say when to retry

Status codes are translated here and nowhere else; callers distinguish classes, never numbers. What an
administrator can do about an error is in `adapter.kube.advice`.
"""
# ruff: noqa: N818 - named after the reasons of Kubernetes' own Status objects

from __future__ import annotations

import json
import re
from collections.abc import Mapping

_MESSAGE_LIMIT = 500
"""Characters of the message of a Status object that are shown."""


class ApiError(Exception):
    """The Kubernetes API refused a request, or did not answer.

    Attributes:
        path: URL path of the request, without the query.
        code: HTTP status; 0 where there was no answer.

    """

    def __init__(self, message: str, *, path: str = "", code: int = 0) -> None:
        super().__init__(message)
        self.path = path
        self.code = code

    @property
    def answered(self) -> bool:
        """Whether an answer of the API server decided it, or nothing needed to be sent."""
        return True


class Unauthorized(ApiError):
    """The adapter's credentials are not accepted."""


class Forbidden(ApiError):
    """RBAC does not allow the request."""


class NotFound(ApiError):
    """There is no such object, or the API has no such resource."""


class Conflict(ApiError):
    """The object exists already, or was modified since it was read."""


class Gone(ApiError):
    """The resource version to watch from is compacted: list again."""


class InvalidPath(ApiError):
    """A name, kind or version cannot stand in a URL; nothing was sent."""


class Unavailable(ApiError):
    """No answer, or an error of the server; the same request may succeed later."""

    @property
    def answered(self) -> bool:
        """Whether the server answered with its error."""
        return self.code != 0


class Throttled(Unavailable):
    """The server limits the request rate.

    Attributes:
        retry_after: seconds to wait before the next attempt; 0 where the response has none.

    """

    def __init__(
        self, message: str, *, path: str = "", code: int = 429, retry_after: float = 0.0
    ) -> None:
        super().__init__(message, path=path, code=code)
        self.retry_after = retry_after


_CLASSES: dict[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
}


_PYTHON = re.compile(r" ssl:(<[^>]*>|\w+)")
"""What aiohttp says of TLS in the error of a connection: an object of Python."""


def no_answer(error: Exception, *, path: str) -> Unavailable:
    """The error of a request without a connection, without a response in time, or with an unusable one."""
    reason = _PYTHON.sub("", str(error)) or type(error).__name__
    return Unavailable(f"{path}: {reason}", path=path)


def of_status(code: int, message: str, *, path: str, retry_after: str | None = None) -> ApiError:
    """The error of an HTTP status.

    Args:
        code: status, 300 or more.
        message: sentence for people, with the path.
        path: URL path of the request.
        retry_after: the header, as it came.

    """
    if code == 429 or (code == 503 and retry_after):
        return Throttled(message, path=path, code=code, retry_after=_seconds(retry_after))
    if code >= 500:
        return Unavailable(message, path=path, code=code)
    return _CLASSES.get(code, ApiError)(message, path=path, code=code)


def _seconds(retry_after: str | None) -> float:
    """Seconds of a Retry-After header; Kubernetes never sends the form with a date."""
    text = (retry_after or "").strip()
    return float(text) if text.isascii() and text.isdigit() else 0.0


def of_object(status: Mapping[str, object], *, path: str) -> ApiError:
    """The error of a Status object, which a watch ends with."""
    code = status.get("code")
    message = str(status.get("message") or "the watch failed")[:_MESSAGE_LIMIT]
    return of_status(code if isinstance(code, int) else 0, f"{path}: {message}", path=path)


def reported(body: bytes) -> str:
    """The message of a Status object; empty for any other body, which is not ours to quote."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(document, dict) or document.get("kind") != "Status":
        return ""
    return str(document.get("message") or "")[:_MESSAGE_LIMIT]
