"""Names of models and GPUs, as people, checkpoints and node labels write them, in those of the catalog."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

GPUS = {
    "A100-SXM": ("a100_sxm", ("a100", "a100-80gb", "a100-sxm4", "a100-sxm4-80gb", "a100-sxm-80gb")),
    "H100-SXM": (
        "h100_sxm",
        (
            "h100",
            "h100-80gb",
            "h100-sxm5",
            "h100-80gb-hbm3",
            "h100-sxm5-80gb",
            "h100-sxm-80gb",
            "h100-sxm-80gb-hbm3",
            "h100-hbm3",
        ),
    ),
    "H200": (
        "h200_sxm",
        ("h200-sxm", "h200-sxm5", "h200-141gb", "h200-141gb-hbm3e", "h200-sxm-141gb"),
    ),
    "B200": (
        "b200_sxm",
        ("b200-sxm", "b200-180gb", "b200-192gb", "b200-sxm-180gb", "b200-sxm-192gb"),
    ),
    "B300": ("b300_sxm", ("b300-sxm", "b300-sxm6", "b300-288gb", "b300-sxm6-ac")),
    "GB200": ("gb200", ("gb200-nvl72", "gb200-nvl")),
    "L40S": ("l40s", ("l40s-48gb", "l40s-pcie")),
    "RTX-PRO-6000": (
        "rtx_pro_6000_server",
        (
            "rtx-pro-6000-server",
            "rtx-pro-6000-blackwell",
            "rtx-pro-6000-blackwell-server-edition",
        ),
    ),
}
"""Our name of each GPU: aiconfigurator's name, and others (normalized) of the same memory and links."""

_PRECISIONS = {
    "bf16": "bf16", "bfloat16": "bf16", "fp16": "bf16",
    "fp8": "fp8", "float8": "fp8",
    "fp4": "fp4", "nvfp4": "fp4", "mxfp4": "fp4",
    "int4": "int4", "awq": "int4", "gptq": "int4", "w4a16": "int4", "4bit": "int4", "bnb": "int4",
    "int8": "int8", "w8a8": "int8", "w8a16": "int8",
}  # fmt: skip
_MEANINGLESS = frozenset({
    "meta", "instruct", "chat", "it", "hf", "base", "thinking", "dynamic", "static", "pertensor", "block",
    "quantized", "quant", "kv", "v0.1", "v0.2", "v0.3", "0324", "0528", "2501", "2503", "2506", "2507",
})  # fmt: skip
"""Words of a name that change neither its size nor its speed: tuning, release, how it was quantized."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:x\d+)?")
"""Version, or billions of parameters, as one number."""

_ALIKE = 0.5
"""Ratio of what two names have in common from which on one is offered for the other."""


def model_key(name: str) -> tuple[str, str | None]:
    """Name without organization and meaningless words, in lower case; precision where it says one."""
    last = name.strip().rstrip("/").rsplit("/", 1)[-1].lower().partition(":")[0].strip()
    last = re.sub(r"\s+", "-", last)
    last = re.sub(r"(?<=\d)_(?=\d)", ".", last).replace("_", "-")
    precision: str | None = None
    words = []
    for word in last.split("-"):
        if word in _PRECISIONS:
            precision = _PRECISIONS[word]
        elif word and word not in _MEANINGLESS:
            words.append(word)
    return "-".join(words), precision


def gpu_key(name: str) -> str | None:
    """The catalog's name of a GPU; None where the catalog does not have it."""
    plain = _plain_gpu(name)
    for key, (_, aliases) in GPUS.items():
        if plain == key.lower() or plain in aliases:
            return key
    # In whatever order the words stand: `H100-80GB-SXM5` has those of `h100-sxm5-80gb`.
    words = _gpu_words(plain)
    for key, (_, aliases) in GPUS.items():
        if any(words == _gpu_words(alias) for alias in (key.lower(), *aliases)):
            return key
    return None


def nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Up to three of the known names that look most alike, best first.

    Numbers count before letters: `qwen3-235b` is nearer to `qwen3-235b-a22b` than to `qwen3-32b`.
    """
    plain, matcher = name.lower(), difflib.SequenceMatcher()
    matcher.set_seq2(plain)
    numbers = set(_NUMBER.findall(plain))
    close = []
    for candidate in known:
        matcher.set_seq1(candidate.lower())
        ratio = matcher.ratio()
        if ratio >= _ALIKE:
            shared = len(numbers.intersection(_NUMBER.findall(candidate.lower())))
            close.append((shared, ratio, candidate))
    close.sort(reverse=True)
    return tuple(candidate for _, _, candidate in close[:3])


def nearest_gpus(name: str) -> tuple[str, ...]:
    """GPUs of the catalog that look most alike."""
    return nearest(_plain_gpu(name), GPUS)


def _plain_gpu(name: str) -> str:
    plain = re.sub(r"[\s_]+", "-", name.strip().lower().rpartition("=")[2].strip())
    plain = re.sub(r"^\d+-?x-?", "", plain)
    # Time-slicing makes the label end so; the GPU is the same.
    return re.sub(r"^(nvidia|tesla|geforce)-", "", plain).removesuffix("-shared")


def _gpu_words(plain: str) -> frozenset[str]:
    """Words of a name; the form factor may be joined to the number, and have a generation or not."""
    joined = re.sub(r"(?<=\d)(sxm\d?)", r"-\1", plain)
    return frozenset(re.sub(r"^sxm\d$", "sxm", word) for word in joined.split("-") if word)
