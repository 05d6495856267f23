"""Command lines of containers: the ports that they give to model servers, and how these answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

VLLM_PORT, SGLANG_PORT, TRITON_PORT = 8000, 30000, 8002
"""Default ports of the servers' metrics."""

_DEFAULTS = (
    (("tritonserver",), TRITON_PORT),
    (("sglang",), SGLANG_PORT),
    (("text-generation-inference", "text-generation-launcher"), 80),
    (("llama.cpp", "llama-server", "huggingfaceserver"), 8080),
    (("vllm",), VLLM_PORT),
)
"""Words of images and command lines, with the port of the metrics of what they start."""

_FIXED = {"tritonserver": "metrics-port", "huggingfaceserver": "http_port"}
"""Flags with the port of the metrics, where it is not `--port`, by a word of image or command line."""

_SHORT = "text-generation"
"""Word of the servers whose flag `-p` is `--port`."""

_METRICS_VARIABLE = "DYN_SYSTEM_PORT"
"""Environment variable with a port of metrics beside the one that a flag gives."""

_PORT_VARIABLES = (("PORT", "text-generation"), ("LLAMA_ARG_PORT", "llama"))
"""Environment variables that stand for the flag, each with a word of the images that read it."""

_MOST_TEXT = 64 * 1024
"""Most characters of a command line that are read, and of the values of all its variables."""

_MOST_RANKS = 16
"""Most engines that a container starts."""

# No pattern reads beyond the next "$": texts are long, and their owners choose them.
_VARIABLE = re.compile(r"\$(?:\((\w+)\)|\{(\w+)(?::?-([^}$]*))?\}|(\w+))")
_ASSIGNED = re.compile(r"(?:^|[\s;&])(?:export\s+)?([A-Za-z_]\w*)=\"?(\d{1,5})\"?(?=[\s;&]|$)")

_COMMANDS = re.compile(r"&&|[;&|\n]")
"""What separates the commands of a shell."""

_CERTIFICATE_FLAG = re.compile(r"(?:^|\s)--ssl[-_]certfile(?:=|\s)")

_OF_PICKER = re.compile(
    r"(?:^|\s)--?metrics(?:-(port|cert-dir)|(Port))(?:=|\s+)[\"']?([^\s\"'-][^\s\"']*)"
)
"""Flags of an endpoint picker: where its metrics are, and the certificates with which they are served. Before
v1 they were `-metricsPort` and the like; Go reads one dash as two."""

NIM_PATH = "/v1/metrics"
_NIM_IMAGE = re.compile(r"(?:^|/)nim/[^/]+/")
_NIM_VARIABLE = re.compile(r"NIM_(?:HTTP_API_PORT|SERVER_PORT|CACHE_PATH|MODEL_PROFILE|MODEL_NAME)")
"""Path of the metrics of NVIDIA's NIM; its images, at `nvcr.io` and mirrors of it; variables of it alone."""

_NOT_OFF = r"(?![=\s]{1,8}[\"']?(?:[Ff]alse|FALSE|0|no)\b)"
"""What follows a flag that is not switched off by its value."""

_MODE = r"--disaggregation-mode[=\s]+[\"']?"
_ROLE = re.compile(
    rf"(?P<prefill>{_MODE}prefill\b|--is-prefill-worker\b{_NOT_OFF})"
    rf"|(?P<decode>{_MODE}decode\b|--is-decode-worker\b{_NOT_OFF})"
)
_CACHE_ROLE = re.compile(
    r"\bkv_role\W{1,8}(?:(?P<prefill>kv_producer)|(?P<decode>kv_consumer)|(?P<both>kv_both))\b"
)
"""Flags of SGLang and Dynamo's workers with the one part of requests that a server does, and vLLM's with what
it does with its cache: of several connectors one may be for other uses, such as storing it."""

_PER_RANK = re.compile(
    rf"(?:^|\s)(?:--data[-_]parallel[-_]multi[-_]port[-_]external[-_]lb|-dpm)(?=\s|$){_NOT_OFF}"
)
_LOCAL_RANKS = re.compile(
    r"(?:^|\s)(?:--data[-_]parallel[-_]size[-_]local|-dpl)(?:=|\s+)[\"']?(\d{1,5})\b"
)
_RANKS = re.compile(r"(?:^|\s)(?:--data[-_]parallel[-_]size|-dp)(?:=|\s+)[\"']?(\d{1,5})\b")
"""Flags of vLLM, which reads `_` as `-`, with a server for each data-parallel rank of a node, at ports that
follow the first one; and how many ranks there are of the node, and in all."""

_COUNTED = re.compile(r"\$\(\(\s*(\d{1,5})\s*\+")
"""Beginning of a sum in a shell: the port of the first of several engines."""

_SERVER = re.compile(r"vllm|sglang|llama-server|trtllm|api_server")
"""Words of commands that start a model server."""

_STARTS = re.compile(
    r"(?:^|[\s/\"'])vllm\s{1,9}serve(?=\s|$)|vllm\.entrypoints|sglang\.launch_server|llama-server|trtllm-serve"
)
"""Commands that start a server of their own, whatever the image's own server is."""

_RENDERS = re.compile(r"(?:^|[\s/\"'])vllm\s{1,9}launch\s{1,9}render(?=\s|$)")
"""Command of what only renders prompts, beside a server."""


def ports(container: Mapping[str, Any]) -> tuple[int, ...]:
    """Ports that a container's command line, or its environment, gives its servers; empty without any.

    A shell may start several servers, each with a port. Where it counts ports up, there may be as many as the
    container has GPUs.
    """
    text, says = text_of(container), _says(container)
    values = {str(item.get("name")): item.get("value") for item in container.get("env") or ()}
    if number := _port(str(values.get(_METRICS_VARIABLE))):
        return (number,)
    flag = next((f"--{flag}" for word, flag in _FIXED.items() if word in says), "--port")
    if _SHORT in says:
        flag = "(?:--port|-p)"
    form = re.compile(rf"(?:^|\s){flag}(?:=|\s+)[\"']?(\d{{1,5}}|\$\(\([^)$]*\)\))[\"']?(?=\s|$)")
    given: list[str] = []
    of_servers: list[str] = []
    for command in _COMMANDS.split(text):
        if "ray start" in command:
            continue
        shown = form.findall(f"{command} ")[-1:]  # the last of a flag that is given again
        given += shown
        if shown and _SERVER.search(command):
            of_servers += shown
    engines, ranks = _devices(container), _ranks(container, text)
    rows = (_counted(each, engines) for each in dict.fromkeys(of_servers or given[:1]))
    firsts = [number for row in rows for number in row] or [VLLM_PORT] * (ranks > 1)
    numbers = (first + rank for first in firsts for rank in range(ranks) if first + rank < 65536)
    variables = (_port(str(values.get(name))) for name, word in _PORT_VARIABLES if word in says)
    return tuple(dict.fromkeys(numbers))[:_MOST_RANKS] or tuple(filter(None, variables))[:1]


def several(containers: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the command line of one of these containers starts several servers."""
    return any(len(ports(item)) > 1 for item in containers)


def _ranks(container: Mapping[str, Any], text: str) -> int:
    """Servers that one command of this text starts: one for each rank of the node, or 1."""
    if not _PER_RANK.search(text):
        return 1
    devices, given = _devices(container), _LOCAL_RANKS.search(text)
    if given is None and (given := _RANKS.search(text)) is None:
        return devices
    # Of all ranks a node has at most as many as it has GPUs; those of a claim are not counted here.
    most = devices if given.re is _RANKS and devices > 1 else _MOST_RANKS
    return max(min(int(given[1]), most), 1)


def _counted(text: str, devices: int) -> Iterable[int]:
    """The port in a flag's value; of a sum a row that begins with the first of its terms."""
    start = _COUNTED.match(text)
    if start is None:
        number = _port(text)
        return (number,) if number else ()
    first = _port(start[1])
    return range(first, min(first + max(devices, 1), 65536)) if first else ()


def _devices(container: Mapping[str, Any]) -> int:
    """GPUs of a container, at most as many as a loop may start engines."""
    resources = container.get("resources") or {}
    held = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    counts = [str(value) for name, value in held.items() if name.endswith("/gpu")]
    return min(max((int(text) for text in counts if text.isdigit()), default=1), _MOST_RANKS)


def _port(text: str) -> int:
    """A port; 0 where it is none."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return number if 0 < number < 65536 else 0


def default(containers: Iterable[Mapping[str, Any]]) -> int:
    """Port of the metrics of the server in these containers, where nothing says another one."""
    says = " ".join(map(_says, containers))
    for words, number in _DEFAULTS:
        if any(word in says for word in words):
            return number
    return VLLM_PORT


def known(container: Mapping[str, Any]) -> bool:
    """Whether a container is a model server by its image or command line."""
    says = _says(container)
    return any(word in says for words, _ in _DEFAULTS for word in words)


def runs(container: Mapping[str, Any]) -> bool:
    """Whether a container is a model server by its image or the command that it starts."""
    image = str(container.get("image") or "")
    named = any(word in image for words, _ in _DEFAULTS for word in words)
    return named or _STARTS.search(text_of(container)) is not None


def renders(container: Mapping[str, Any]) -> bool:
    """Whether a container only renders prompts, whatever it is called: its image is that of servers."""
    return _RENDERS.search(text_of(container)) is not None


def of_picker(containers: Iterable[Mapping[str, Any]]) -> tuple[int, bool]:
    """Port of the metrics that an endpoint picker is started with, 0 without one, and whether by https."""
    flags = {
        (name or camel).lower(): value
        for item in containers
        for name, camel, value in _OF_PICKER.findall(text_of(item))
    }
    return _port(flags.get("port", "")), "cert-dir" in flags


def role(containers: Iterable[Mapping[str, Any]]) -> str:
    """The part of a request that the server of these containers is started for; empty for whole requests."""
    texts = [text_of(item) for item in containers]
    for form in (_ROLE, _CACHE_ROLE):
        named = {match.lastgroup for text in texts for match in form.finditer(text)}
        if named:
            return (named.pop() or "") if len(named) == 1 and named != {"both"} else ""
    return ""


def path(containers: Iterable[Mapping[str, Any]]) -> str:
    """Path of the metrics of the server in these containers, where nothing says another one."""
    return NIM_PATH if any(map(_is_nim, containers)) else "/metrics"


def _is_nim(container: Mapping[str, Any]) -> bool:
    variables = (str(item.get("name")) for item in container.get("env") or ())
    image = _NIM_IMAGE.search(str(container.get("image") or ""))
    return image is not None or any(map(_NIM_VARIABLE.fullmatch, variables))


def has_certificate(container: Mapping[str, Any]) -> bool:
    """Whether a container's server is started with a certificate."""
    return _CERTIFICATE_FLAG.search(text_of(container)) is not None


def _says(container: Mapping[str, Any]) -> str:
    """Words of the server: of its command line, and of the image unless the former starts another."""
    text = text_of(container)
    return text if _STARTS.search(text) else f"{text} {container.get('image', '')}"


def text_of(container: Mapping[str, Any]) -> str:
    """Command and arguments of a container, with the variables that are known."""
    parts = [*(container.get("command") or ()), *(container.get("args") or ())]
    text = " ".join(map(str, parts))[:_MOST_TEXT]
    values = dict(_ASSIGNED.findall(text))
    values |= {
        str(item.get("name")): str(item["value"])
        for item in container.get("env") or ()
        if isinstance(item, Mapping) and item.get("value") is not None
    }

    left = _MOST_TEXT

    def value(variable: re.Match[str]) -> str:
        nonlocal left
        name = variable[1] or variable[2] or variable[4]
        shown = (values.get(name) or str(variable[3] or variable[0]))[:left]
        left -= len(shown)
        return shown

    return _VARIABLE.sub(value, text)
