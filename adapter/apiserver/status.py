"""`metav1.Status`: the form of all errors of the API server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class StatusError(Exception):
    """An error with its Status; `handlers` renders it."""

    def __init__(
        self, code: int, reason: str, message: str, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details

    def document(self) -> dict[str, Any]:
        """The Status object, keys in the order of the official library."""
        document: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
        }
        if self.details is not None:
            document["details"] = self.details
        document["code"] = self.code
        return document


def bad_request(message: str) -> StatusError:
    """400."""
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    """401, without a reason."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def forbidden(message: str, details: dict[str, Any]) -> StatusError:
    """403."""
    return StatusError(403, "Forbidden", message, details)


def not_found() -> StatusError:
    """404 for an unknown path."""
    return StatusError(404, "NotFound", "the server could not find the requested resource", {})


def method_not_allowed() -> StatusError:
    """405."""
    return StatusError(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
        {},
    )


def not_acceptable(available: Sequence[str]) -> StatusError:
    """406, with the available representations."""
    return StatusError(
        406,
        "NotAcceptable",
        f"406: Not Acceptable\n\nAvailable representations: {', '.join(available)}",
        {},
    )


def invalid(field: str, what: str, why: str) -> StatusError:
    """422 for list options."""
    text = f'ListOptions.meta.k8s.io "" is invalid: {field}: {what}: {field} {why}'
    cause = {"reason": f"FieldValue{what}", "message": f"{what}: {field} {why}", "field": field}
    details = {"group": "meta.k8s.io", "kind": "ListOptions", "causes": [cause]}
    return StatusError(422, "Invalid", text, details)


def unavailable(message: str) -> StatusError:
    """503, without Retry-After: the HPA controller would wait for it."""
    return StatusError(503, "ServiceUnavailable", message, {})


def internal(message: str) -> StatusError:
    """500."""
    return StatusError(500, "InternalError", message, {})
