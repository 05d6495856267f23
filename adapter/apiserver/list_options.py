"""Query parameters of list requests: most have no effect; malformed ones are refused as by kube-apiserver."""

from __future__ import annotations

import re

from multidict import MultiMapping

from adapter.apiserver import discovery, request_info
from adapter.apiserver import status as api_status

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_DURATION = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h)", re.ASCII)
_FIELDS = {"metadata.name", "metadata.namespace"}
_TRUE = {"true", "1", "t"}


def check(query: MultiMapping[str]) -> None:
    """Validate query parameters.

    Raises:
        StatusError: 400, 405 or 422, in kube-apiserver's words.

    """
    for name in ("limit", "timeoutSeconds"):
        text = query.get(name, "")
        if text and not _INTEGER.fullmatch(text):
            raise api_status.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    _check_timeout(query.get("timeout", ""))
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        field, operator, _ = term.replace("!=", "=").replace("==", "=").partition("=")
        if not operator:
            raise api_status.bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
        if field not in _FIELDS:
            raise api_status.bad_request(
                f'"{field}" is not a known field selector: only "metadata.name", "metadata.namespace"'
            )
    if query.get("resourceVersionMatch") and not query.get("resourceVersion"):
        raise api_status.invalid(
            "resourceVersionMatch", "Forbidden", "is forbidden unless resourceVersion is provided"
        )
    if query.get("sendInitialEvents", "").lower() in _TRUE and not request_info.watches(query):
        raise api_status.invalid("sendInitialEvents", "Forbidden", "is forbidden for list")
    if request_info.watches(query):
        raise api_status.StatusError(
            405,
            "MethodNotAllowed",
            f'watch is not supported on resources of kind "*.{discovery.GROUP}"',
            {"group": discovery.GROUP, "kind": "*"},
        )


def _check_timeout(text: str) -> None:
    if not text or text == "0":
        return
    rest = text
    while rest:
        part = _DURATION.match(rest)
        if part is None:
            raise api_status.bad_request(
                f'invalid timeout specified in the request URL - time: invalid duration "{text}"'
            )
        rest = rest[part.end() :].lstrip("+-") if part.end() < len(rest) else ""
