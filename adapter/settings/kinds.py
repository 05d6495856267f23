"""Kinds of values that settings take: how a value is read from text, and how it is written.

Texts come from flags, ConfigMaps and the environment alike, so a duration or a share is written in one way
everywhere. Parsers raise `ValueError` with a message that says what is accepted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from adapter.kube import duration, paths, quantity
from adapter.kube.paths import shortened

Value = TypeVar("Value")

_COUNT = 10**6
"""Largest count."""

_URL_LENGTH = 2048
_HOST_LENGTH = 253
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?")
_URL_TEXT = re.compile(r"[\x21-\x7e]*")
_CREDENTIALS = re.compile(r"(?<=//)[^/@]*@")
_GATEWAY = re.compile(r"(?:([^=/:]+)=)?(https?://[^=\s][^=\s/?]*+(?:[/?]\S*)?)")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*+([\x20-\x7e\xa0-\xff]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[Value]):
    """How values of a setting are read and written.

    Attributes:
        parse: Reads a value from text; raises `ValueError` that says what is accepted.
        show: Writes a value as it can be read again.
        metavar: Placeholder of the value in usage texts.
        form: How a flag takes the value: one value, one of choices, a list by repetition, `--x` and `--no-x`,
            or `--x` alone.
        choices: Accepted texts of a choice.

    """

    parse: Callable[[str], Value]
    show: Callable[[Value], str] = str
    metavar: str = ""
    form: Literal["value", "choice", "repeated", "switch", "enable"] = "value"
    choices: tuple[str, ...] = ()


def seconds(text: str) -> float:
    """Read a duration greater than 0, such as `60s` or `1m30s`; plain numbers are seconds.

    Raises:
        ValueError: the text is no such duration.

    """
    return duration.seconds(text)


def show_seconds(value: float) -> str:
    """Write a duration in its largest unit that leaves no fraction: `10m`, `90s`, `500ms`."""
    if value and value % 3600 == 0:
        return f"{value / 3600:g}h"
    if value and value % 60 == 0:
        return f"{value / 60:g}m"
    return f"{value:g}s" if value >= 1 or value == 0 else f"{value * 1000:g}ms"


def bounded_seconds(
    low: float, high: float, *, off: bool = False, whole: bool = False
) -> Kind[float]:
    """A duration within bounds: a number in the wrong unit is detected by its size.

    Args:
        low: Shortest duration, seconds.
        high: Longest duration, seconds.
        off: Whether `off`, which is 0, is accepted too.
        whole: Whether only whole seconds are accepted.

    """
    accepted = (
        f"{'whole seconds' if whole else 'a duration'} from {show_seconds(low)} to {show_seconds(high)}"
        f"{' or off' if off else ''}"
    )

    def parse(text: str) -> float:
        if off and text == "off":
            return 0.0
        try:
            value = seconds(text)
        except ValueError:
            value = -1.0
        if not low <= value <= high or (whole and value != int(value)):
            raise ValueError(
                f"must be {accepted}, not {shortened(text)} (plain numbers are seconds)"
            )
        return value

    def show(value: float) -> str:
        return show_seconds(value) if value or not off else "off"

    return Kind(parse=parse, show=show, metavar="DURATION|off" if off else "DURATION")


def percent(text: str) -> float:
    """Read a share from 0 to 1, such as `5%` or `0.05`.

    Raises:
        ValueError: the text is no such share.

    """
    value = _portion(text)
    if not 0 <= value <= 1:
        raise ValueError(f"must be from 0 to 1 or 0% to 100%, not {shortened(text)}")
    return value


def share(text: str) -> float:
    """Read a share from 0 to less than 1, such as `5%` or `0.05`.

    Raises:
        ValueError: the text is no such share.

    """
    value = _portion(text)
    if not 0 <= value < 1:
        raise ValueError(f"must be a number >= 0 and < 1, such as 10%, not {shortened(text)}")
    return value


def _portion(text: str) -> float:
    """A number or a percentage; -1 for what is neither."""
    try:
        return float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        return -1.0


def factor(text: str) -> float:
    """Read a number from 0 to 100; `off` is 0.

    Raises:
        ValueError: the text is no such number.

    """
    try:
        value = 0.0 if text == "off" else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise ValueError(f"must be a number from 0 to 100 or off, not {text!r}")
    return value


def port(text: str) -> int:
    """Read a TCP port; 0 lets the system choose.

    Raises:
        ValueError: the text is no port.

    """
    try:
        return quantity.whole(text, most=65535)
    except ValueError:
        raise ValueError(f"must be 0..65535, not {shortened(text)}") from None


def count(text: str) -> int:
    """Read a whole number of at least 1.

    Raises:
        ValueError: the text is no such number.

    """
    try:
        return quantity.whole(text, least=1, most=_COUNT)
    except ValueError:
        raise ValueError(f"must be a whole number >= 1, not {shortened(text)}") from None


def header(text: str) -> tuple[str, str]:
    """Read name and value of an HTTP header.

    Raises:
        ValueError: the text is no header.

    """
    parts = _HEADER.fullmatch(text)
    if parts is None:
        raise ValueError(f"must be 'NAME: VALUE', not {shortened(text)}")
    return parts[1], parts[2].strip()


def label(text: str) -> str:
    """Read a DNS label (RFC 1123), as names of namespaces and Services are.

    Raises:
        ValueError: the text is no such name.

    """
    return paths.check_label(text)


def name(text: str) -> str:
    """Read a DNS name (RFC 1123): labels separated by dots, as names of most Kubernetes objects are.

    Raises:
        ValueError: the text is no such name.

    """
    return paths.check_name(text)


def labels(text: str) -> tuple[str, ...]:
    """Read DNS labels separated by commas, each once.

    Raises:
        ValueError: one is no DNS label.

    """
    parts = (part.strip() for part in text.split(","))
    return tuple(dict.fromkeys(label(part) for part in parts if part))


def destinations(text: str) -> tuple[str, ...]:
    """Read CIDRs, hosts and `*.DOMAIN`s separated by commas, each once.

    Raises:
        ValueError: one is none of them.

    """
    return tuple(dict.fromkeys(map(_destination, filter(None, map(str.strip, text.split(","))))))


def _destination(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        if "/" not in text and is_host(text.removeprefix("*.")):
            return text.lower()
    raise ValueError(
        f"must be a CIDR such as 10.0.0.0/8, a host or *.DOMAIN, not {shortened(text)}"
    )


def not_empty(text: str) -> str:
    """Read a text that is not empty.

    Raises:
        ValueError: it is empty.

    """
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def url(text: str) -> str:
    """Read an `http://` or `https://` URL; empty text means none.

    Raises:
        ValueError: the text is no such URL.

    """
    if text:
        try:
            split_url(text)
        except ValueError as error:
            shown = shortened(without_credentials(text))
            raise ValueError(f"must be an http:// or https:// URL, not {shown}: {error}") from error
    return text


def split_url(text: str) -> SplitResult:
    """Split an `http://` or `https://` URL that can be requested: its host and port are checked.

    Raises:
        ValueError: what is wrong with it, without the text.

    """
    if len(text) > _URL_LENGTH:
        raise ValueError(f"it is longer than {_URL_LENGTH} characters")
    if not _URL_TEXT.fullmatch(text):
        raise ValueError("it has blanks or characters that are not ASCII; quote them")
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ValueError("its host is malformed") from error
    if parts.scheme not in {"http", "https"}:
        raise ValueError("its scheme must be http or https")
    host = parts.hostname or ""
    if not is_host(host):
        raise ValueError("its host must be an IP address or a DNS name")
    try:
        number = parts.port
    except ValueError as error:
        raise ValueError("its port must be 1..65535") from error
    if number == 0:
        raise ValueError("its port must be 1..65535")
    return parts


def is_host(text: str) -> bool:
    """Whether a text is an IP address or a DNS name."""
    if len(text) > _HOST_LENGTH:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        labels = text.removesuffix(".").split(".")
        # All digits at the end: an IPv4 address that is none, which resolvers read in several ways.
        return all(map(_HOST_LABEL.fullmatch, labels)) and not labels[-1].isdigit()
    return "%" not in text


def without_credentials(text: str) -> str:
    """A URL without user and password, for messages."""
    return _CREDENTIALS.sub("", text)


def gateway(text: str) -> tuple[str, str]:
    """Read the metrics URL of a gateway, alone or as `NAMESPACE=URL`; the namespace is empty for any.

    Raises:
        ValueError: the text is neither.

    """
    match = _GATEWAY.fullmatch(text)
    try:
        if match is not None:
            return label(match[1]) if match[1] else "", url(match[2])
    except ValueError:
        pass
    raise ValueError(f"must be URL or NAMESPACE=URL, not {without_credentials(text)!r}")


def true_or_false(text: str) -> bool:
    """Read `true` or `false`, in any case.

    Raises:
        ValueError: the text is neither.

    """
    if text.lower() not in {"true", "false"}:
        raise ValueError(f"must be true or false, not {shortened(text)}")
    return text.lower() == "true"


def choice(*choices: str) -> Kind[str]:
    """One of some texts."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {shortened(text)}")
        return text

    return Kind(parse=parse, form="choice", choices=choices)


def _on_or_off(value: bool) -> str:  # noqa: FBT001 - the kind's value
    return "on" if value else "off"


PERCENT = Kind(parse=percent, show=lambda value: f"{value * 100:g}%", metavar="SHARE")
SHARE = Kind(parse=share, show=lambda value: f"{value:g}", metavar="SHARE")
FACTOR = Kind(
    parse=factor, show=lambda value: f"{value:g}" if value else "off", metavar="FACTOR|off"
)
PORT = Kind(parse=port, metavar="PORT")
COUNT = Kind(parse=count, metavar="N")
FILE = Kind(parse=Path, metavar="FILE")
FOLDER = Kind(parse=lambda text: Path(not_empty(text)), metavar="DIR")
TEXT = Kind(parse=str, metavar="TEXT")
ADDRESS = Kind(parse=not_empty, metavar="HOST")
IDENTITY = Kind(parse=not_empty, metavar="NAME")
HOST = Kind(parse=str, metavar="HOST")
LABEL = Kind(parse=label, metavar="NAME")
NAME = Kind(parse=name, metavar="NAME")
URL = Kind(parse=url, show=without_credentials, metavar="URL")
GATEWAYS = Kind(
    parse=lambda text: (gateway(text),),
    show=lambda value: ", ".join("=".join(filter(None, parts)) for parts in value),
    metavar="[NAMESPACE=]URL",
    form="repeated",
)
DESTINATIONS = Kind(parse=destinations, show=",".join, metavar="CIDR,HOST")
LABELS = Kind(parse=labels, show=",".join, metavar="A,B")
HEADERS = Kind(
    parse=lambda text: (header(text),),
    show=lambda value: ", ".join(f"{name}: {text}" for name, text in value),
    metavar="'NAME: VALUE'",
    form="repeated",
)
SWITCH = Kind(parse=true_or_false, show=_on_or_off, form="switch")
ENABLE = Kind(parse=true_or_false, show=_on_or_off, form="enable")
