"""Annotations of a VariantAutoscaling and of its scale target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from adapter import errors
from adapter.settings.groups import all_declarations

ENDPOINTS = "llmd.ai/metrics-endpoints"

REPLICAS = "llmd.ai/replicas"

KEEP_ACCELERATOR = "llmd.ai/keep-accelerator"

MIN_REPLICAS = "llmd.ai/min-replicas"

MAX_REPLICAS = "llmd.ai/max-replicas"

TUNE = "llmd.ai/tune"

ACTUATE = "llmd.ai/actuate"

METRICS_SOURCE = "llmd.ai/metrics-source"

SCALE_TO_ZERO = "llmd.ai/scale-to-zero"

RETENTION = "llmd.ai/scale-to-zero-retention"

STARTUP = "llmd.ai/startup-time"

ROUTING = "llmd.ai/routing"

ACCELERATOR_LABEL = "inference.optimization/acceleratorName"

_DECLARED = {item.annotation: item for item in all_declarations() if item.annotation}
"""Settings that an annotation overrides, whose bounds are those of the annotation too."""

Word = TypeVar("Word", bound=str)


def parse_seconds(notes: Mapping[str, str], name: str) -> float | None:
    text = notes.get(name)
    if text is None:
        return None
    try:
        return float(_DECLARED[name].parse(text))
    except ValueError as error:
        raise errors.InputError(f"metadata.annotations[{name}]: {error}") from error


def parse_one_of(notes: Mapping[str, str], name: str, known: Sequence[Word]) -> Word | None:
    text = notes.get(name)
    if text is None:
        return None
    for word in known:
        if text == word:
            return word
    raise errors.InputError(
        f"metadata.annotations[{name}]: must be one of {', '.join(known)}, not {text!r}"
    )


def parse_actuate(notes: Mapping[str, str]) -> bool | None:
    text = notes.get(ACTUATE)
    if text is None:
        return None
    if text not in {"hpa", "scale"}:
        raise errors.InputError(
            f'metadata.annotations[{ACTUATE}]: must be "hpa" or "scale", not {text!r}'
        )
    return text == "scale"


def parse_endpoints(text: str) -> tuple[str, ...]:
    endpoints = []
    for url in text.replace(",", " ").split():
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise errors.InputError(
                f"metadata.annotations[{ENDPOINTS}]: {url!r} is not an http:// or https:// URL"
            )
        endpoints.append(url if parts.path not in {"", "/"} else url.rstrip("/") + "/metrics")
    return tuple(dict.fromkeys(endpoints))


def parse_count(notes: Mapping[str, str], name: str) -> int | None:
    text = notes.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise errors.InputError(
            f"metadata.annotations[{name}]: must be a whole number >= 0, not {text!r}"
        )
    return int(text)


def parse_flag(notes: Mapping[str, str], name: str) -> bool | None:
    text = notes.get(name)
    if text is None:
        return None
    if text.lower() not in {"true", "false"}:
        raise errors.InputError(
            f'metadata.annotations[{name}]: must be "true" or "false", not {text!r}'
        )
    return text.lower() == "true"
