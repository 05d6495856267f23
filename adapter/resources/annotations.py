"""Annotations of a VariantAutoscaling and of its scale target."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar, get_args

from adapter import errors
from adapter.kube import quantity
from adapter.kube.paths import shortened
from adapter.kube.scale import MOST_REPLICAS
from adapter.settings import kinds
from adapter.settings.groups import all_declarations
from adapter.settings.serving import Actuator

MOST_ENDPOINTS = 256
"""Most URLs of one variant's annotation."""

ENDPOINTS = "llmd.ai/metrics-endpoints"

REPLICAS = "llmd.ai/replicas"

KEEP_ACCELERATOR = "llmd.ai/keep-accelerator"

MIN_REPLICAS = "llmd.ai/min-replicas"

MAX_REPLICAS = "llmd.ai/max-replicas"

TUNE = "llmd.ai/tune"

ACTUATE = "llmd.ai/actuate"

ACTUATORS: tuple[Actuator, ...] = get_args(Actuator)

ALLOW_SCALE = "llmd.ai/allow-scale"
"""Consent to patches of `/scale`, on the scale target or its namespace; on a variant it means nothing."""

METRICS_SOURCE = "llmd.ai/metrics-source"

SCALE_TO_ZERO = "llmd.ai/scale-to-zero"

RETENTION = "llmd.ai/scale-to-zero-retention"

STARTUP = "llmd.ai/startup-time"

ROUTING = "llmd.ai/routing"

INTERRUPTIBLE_SHARE = "llmd.ai/interruptible-share"

ACCELERATOR_LABEL = "inference.optimization/acceleratorName"

_DECLARED = {item.annotation: item for item in all_declarations() if item.annotation}
"""Settings that an annotation overrides, whose bounds are those of the annotation too."""

_NAMED = re.compile(r"metadata\.annotations\[([^\[\]]+)\]")

Word = TypeVar("Word", bound=str)


def with_owner(problem: str, of_target: Collection[str], target: object) -> str:
    """The problem of a variant, with the scale target named where an annotation stands there alone.

    Args:
        problem: Text that names annotations as fields.
        of_target: Names of annotations that the scale target has and the variant has not.
        target: Scale target, as messages name it.

    """

    def named(match: re.Match[str]) -> str:
        return f"{match[0]} of {target}" if match[1] in of_target else match[0]

    return _NAMED.sub(named, problem)


def parse_number(notes: Mapping[str, str], name: str) -> float | None:
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
    raise _refusal(name, f"must be one of {', '.join(known)}, not {shortened(text)}")


def parse_actuate(notes: Mapping[str, str]) -> Actuator | None:
    return parse_one_of(notes, ACTUATE, ACTUATORS)


def parse_endpoints(
    text: str, *, own: Collection[str] = (), destinations: Destinations | None = None
) -> tuple[str, ...]:
    """Metrics URLs of the annotation `llmd.ai/metrics-endpoints`.

    Args:
        text: URLs, separated by blanks or commas.
        own: Addresses of the pods of the variant's scale target.
        destinations: Where else metrics may be scraped; None: anywhere.

    Raises:
        InputError: one is no URL, is of another host, or there are too many.

    """
    urls = text.replace(",", " ").split()
    if len(urls) > MOST_ENDPOINTS:
        raise errors.InputError(
            f"metadata.annotations[{ENDPOINTS}]: {len(urls)} URLs, at most {MOST_ENDPOINTS} are scraped"
        )
    endpoints = []
    for number, url in enumerate(urls, 1):
        try:
            parts = kinds.split_url(url)
        except ValueError as error:
            raise errors.InputError(
                f"metadata.annotations[{ENDPOINTS}]: URL {number} is not an http:// or https:// URL that"
                f" can be requested: {error}"
            ) from error
        host = parts.hostname or ""
        if destinations is not None and not (_is_own(host, own) or destinations.include(host)):
            raise errors.InputError(
                f"metadata.annotations[{ENDPOINTS}]: URL {number} names {host}, which is no pod of the scale"
                " target; remove the annotation, or let the operator allow it by --allowed-endpoints"
            )
        endpoints.append(url if parts.path not in {"", "/"} else url.rstrip("/") + "/metrics")
    return tuple(dict.fromkeys(endpoints))


class Destinations:
    """CIDRs, hosts and `*.DOMAIN`s that the operator allows."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._hosts: set[str] = set()
        for text in allowed:
            try:
                self._networks.append(ipaddress.ip_network(text))
            except ValueError:
                self._hosts.add(text.lower())

    def include(self, host: str) -> bool:
        """Whether an address or a host name is among them; names are not resolved."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            name = host.lower().removesuffix(".")
            parents = name.split(".")
            return name in self._hosts or any(
                f"*.{'.'.join(parents[start:])}" in self._hosts for start in range(1, len(parents))
            )
        return any(address in network for network in self._networks)


def _is_own(host: str, own: Collection[str]) -> bool:
    try:
        return str(ipaddress.ip_address(host)) in own
    except ValueError:
        return False


def parse_count(notes: Mapping[str, str], name: str) -> int | None:
    text = notes.get(name)
    if text is None:
        return None
    try:
        return quantity.whole(text, most=MOST_REPLICAS)
    except ValueError as error:
        raise errors.InputError(f"metadata.annotations[{name}]: {error}") from error


def parse_flag(notes: Mapping[str, str], name: str) -> bool | None:
    text = notes.get(name)
    if text is None:
        return None
    if text.lower() not in {"true", "false"}:
        raise _refusal(name, f'must be "true" or "false", not {shortened(text)}')
    return text.lower() == "true"


def _refusal(name: str, problem: str) -> errors.InputError:
    """The error of an annotation, with all spellings of the setting that it overrides."""
    item = _DECLARED.get(name)
    known = f"; the setting is {item.spellings}" if item else ""
    return errors.InputError(f"metadata.annotations[{name}]: {problem}{known}")
