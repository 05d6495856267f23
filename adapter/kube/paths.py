"""URL paths of the Kubernetes API: the one place that builds them, from checked and quoted segments.

Names in objects are written by tenants. A segment such as `..` would turn the request for one object into one
for another, with the adapter's permissions, so every segment must have the form that Kubernetes gives it, and
the client sends no path that has another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

from adapter.kube import errors

LABEL_LENGTH, NAME_LENGTH = 63, 253
"""Longest DNS-1123 label, and longest DNS-1123 subdomain."""

KIND_LENGTH = 63
"""Longest kind."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_VERSION = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_SEGMENT = re.compile(r"[A-Za-z0-9_][-A-Za-z0-9._:]*")


def check_label(text: str) -> str:
    """Check a DNS-1123 label, as names of namespaces and resources are; give it back.

    Raises:
        ValueError: the text has another form.

    """
    if len(text) > LABEL_LENGTH or not _LABEL.fullmatch(text):
        raise ValueError(
            f"must be a DNS label (RFC 1123: at most {LABEL_LENGTH} of a-z, 0-9 and '-', with a letter or"
            f" digit at both ends), not {shortened(text)}"
        )
    return text


def check_name(text: str) -> str:
    """Check a DNS-1123 subdomain, as names of objects are; give it back.

    Raises:
        ValueError: the text has another form.

    """
    if len(text) > NAME_LENGTH or not all(map(_LABEL.fullmatch, text.split("."))):
        raise ValueError(
            f"must be a DNS name (RFC 1123: at most {NAME_LENGTH} of a-z, 0-9, '-' and '.', with a letter"
            f" or digit at both ends of each part), not {shortened(text)}"
        )
    return text


def check_api_version(text: str) -> str:
    """Check an API version, `VERSION` or `GROUP/VERSION`; give it back.

    Raises:
        ValueError: the text has another form.

    """
    group, slash, version = text.rpartition("/")
    groups = group.split(".") if slash else []
    if (
        max(len(version) - LABEL_LENGTH, len(group) - NAME_LENGTH) > 0
        or not _VERSION.fullmatch(version)
        or not all(map(_LABEL.fullmatch, groups))
    ):
        raise ValueError(
            f"must be VERSION or GROUP/VERSION, such as apps/v1, not {shortened(text)}"
        )
    return text


def check_kind(text: str) -> str:
    """Check a kind, such as `Deployment`; give it back.

    Raises:
        ValueError: the text has another form.

    """
    if len(text) > KIND_LENGTH or not _KIND.fullmatch(text):
        raise ValueError(
            f"must be a kind such as Deployment (at most {KIND_LENGTH} letters and digits), not"
            f" {shortened(text)}"
        )
    return text


def root(api_version: str) -> str:
    """Path of an API version: `/api/v1`, `/apis/apps/v1`.

    Raises:
        InvalidPath: the version has another form.

    """
    try:
        version = check_api_version(api_version)
    except ValueError as error:
        raise errors.InvalidPath(f"API version: {error}") from error
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def collection(api_version: str, resource: str, *, namespace: str = "") -> str:
    """Path of all objects of a resource, in one namespace or in all.

    Raises:
        InvalidPath: a segment has not the form that Kubernetes gives it.

    """
    space = f"/namespaces/{_segment('namespace', check_label, namespace)}" if namespace else ""
    return f"{root(api_version)}{space}/{_segment('resource', check_label, resource)}"


def item(
    api_version: str, resource: str, name: str, *, namespace: str = "", subresource: str = ""
) -> str:
    """Path of one object or of a subresource of it.

    Raises:
        InvalidPath: a segment has not the form that Kubernetes gives it; an empty name has not.

    """
    path = f"{collection(api_version, resource, namespace=namespace)}/{_segment('name', check_name, name)}"
    return f"{path}/{_segment('subresource', check_label, subresource)}" if subresource else path


def metric(api_version: str, namespace: str, name: str) -> str:
    """Path of a metric of a namespace in the external metrics API.

    Raises:
        InvalidPath: a segment has not the form that Kubernetes gives it, or the name has other characters
            than letters, digits, `-`, `_`, `.` and `:`.

    """
    space = _segment("namespace", check_label, namespace)
    return checked(f"{root(api_version)}/namespaces/{space}/{name}")


def checked(path: str) -> str:
    """A whole path, once more before it is sent: no segment may be empty, `.`, `..`, or need quoting.

    Raises:
        InvalidPath: a segment is.

    """
    head, *segments = path.split("/")
    if head or not segments or not all(map(_SEGMENT.fullmatch, segments)):
        raise errors.InvalidPath(
            "a segment of the request's path is no name of Kubernetes; not sent"
        )
    return path


def shortened(text: str, length: int = 80) -> str:
    """A text as it is quoted in messages: one line, not longer than that many characters."""
    return repr(text) if len(text) <= length else f"{text[:length]!r}… ({len(text)} characters)"


def _segment(what: str, check: Callable[[str], str], text: str) -> str:
    try:
        return quote(check(text), safe="")
    except ValueError as error:
        raise errors.InvalidPath(f"{what}: {error}") from error
