"""Look-up of profiles in the generated catalog: no I/O but the package's own file, read once.

Two kinds of entries: step times fitted to measured rows of that model, GPU and engine, and estimates that
hold for every engine alike until its calibration is applied to them. Step times are packed
(`packing`), one text for a model and precision over all GPUs and replica sizes; the memory of a replica
follows from the weights, and from activations and the cache's bytes by replica size.
"""

from __future__ import annotations

import enum
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from adapter.profiles import names, packing
from adapter.profiles.calibration import Factors
from adapter.profiles.memory import Memory
from analyzer.step_times import StepTimes

ENGINES = ("vllm", "sglang")
_STEP_COLUMNS, _MEASURED_COLUMNS = 5, 7
RUNTIME_GIB = 3.8
"""Memory of each GPU that runtime and communication take in all estimates."""


class Source(enum.StrEnum):
    """Where step times come from."""

    MEASURED = "measured"
    ESTIMATED = "estimated"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """A profile of one replica.

    Attributes:
        model: name on Hugging Face of the model, or of the one whose geometry it shares.
        precision: precision of the weights: bf16, fp8, fp4 or int4.
        gpu: name in the catalog.
        tp: GPUs of the replica.
        engine: `vllm` or `sglang`.
        step_times: calibrated.
        memory: memory of one GPU of the replica.
        source: source of step_times; memory is always estimated.
        error: mean relative error that is expected of ITL, as measured on rows that step_times have not seen.
        rows: measured rows behind step_times; 0 of an estimate.

    """

    model: str
    precision: str
    gpu: str
    tp: int
    engine: str
    step_times: StepTimes
    memory: Memory
    source: Source
    error: float
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of the catalog.

    Attributes:
        key: name in the catalog.
        name: name on Hugging Face.
        precisions: precisions of weights that the catalog has; the first is what the name alone means.

    """

    key: str
    name: str
    precisions: tuple[str, ...]


def lookup(model: str, gpu: str, tp: int, engine: str = "vllm") -> CatalogEntry | None:
    """The profile of a model on that many GPUs of a replica; None where the catalog has none.

    Args:
        model: name on Hugging Face, in any case, with or without organization; suffixes such as `-FP8` name a
            precision.
        gpu: GPU such as `H100-SXM`, or a node's label `NVIDIA-H100-80GB-HBM3`.
        tp: tensor parallelism, GPUs of a replica.
        engine: `vllm` or `sglang`.

    """
    key = names.gpu_key(gpu)
    match = find_model(model)
    if key is None or match is None or engine not in ENGINES:
        return None
    known, precision = match
    return _entry(known, precision, key, tp, engine)


def find_model(name: str) -> tuple[Model, str] | None:
    """Model and precision that a name means; the precision need not be one that the catalog has."""
    # `_` between digits is a point (Llama-3_1-8B) or a dash (Qwen3_235B_A22B).
    for spelled in dict.fromkeys((name, name.replace("_", "-"))):
        plain, precision = names.model_key(spelled)
        model = _by_alias().get(plain) or _by_letters().get(plain.replace("-", ""))
        if model is not None:
            return model, precision or model.precisions[0]
    return None


def models() -> tuple[Model, ...]:
    """All models of the catalog."""
    return tuple(
        Model(key=key, name=value["name"], precisions=tuple(value["weights"]))
        for key, value in _catalog()["models"].items()
    )


def nearest_models(name: str) -> tuple[str, ...]:
    """Models whose names look most alike, as on Hugging Face."""
    aliases = _by_alias()
    close = names.nearest(names.model_key(name)[0], aliases)
    return tuple(dict.fromkeys(aliases[alias].name for alias in close))


def tps(model: Model, precision: str, gpu: str) -> tuple[int, ...]:
    """Replica sizes in GPUs that the catalog has of a model."""
    return tuple(
        tp
        for tp in (1, 2, 4, 8)
        if f"{model.key}|{precision}|{gpu}|{tp}" in _catalog()["estimated"]
    )


def gpus(model: Model, precision: str) -> tuple[str, ...]:
    """GPUs on which the catalog has a model."""
    return tuple(gpu for gpu in _catalog()["gpus"] if tps(model, precision, gpu))


def weights_gib(model: Model, precision: str) -> float | None:
    """Memory of all weights of a model; None where no GPU of the catalog holds them."""
    for gpu in gpus(model, precision):
        tp = tps(model, precision, gpu)[0]
        fixed = _catalog()["estimated"][f"{model.key}|{precision}|{gpu}|{tp}"][5]
        return float((fixed - RUNTIME_GIB) * tp)
    return None


def gpu_memory_gib(gpu: str) -> float:
    """Memory of one GPU of the catalog."""
    return float(_catalog()["gpus"][gpu])


def factors(engine: str, *, bends: bool) -> Factors:
    """Calibration of raw estimates, of mixtures of experts where the step bends over the batch."""
    return Factors(**_catalog()["calibration"][engine]["mixture" if bends else "dense"])


def _entry(model: Model, precision: str, gpu: str, tp: int, engine: str) -> CatalogEntry | None:
    catalog = _catalog()
    key = f"{model.key}|{precision}|{gpu}|{tp}"
    raw = catalog["estimated"].get(key)
    if raw is None:
        return None
    fixed, activations, per_token = raw[5:]
    measured = catalog["measured"].get(f"{key}|{engine}")
    if measured is not None:
        step_times, error, rows = _step_times(measured), measured[5], round(measured[6])
    else:
        estimate = _step_times(raw)
        calibration = factors(engine, bends=estimate.per_sqrt_request_ms > 0)
        step_times, error, rows = calibration.apply(estimate), calibration.error, 0
    return CatalogEntry(
        model=model.name, precision=precision, gpu=gpu, tp=tp, engine=engine, step_times=step_times,
        memory=Memory(
            capacity_gib=catalog["gpus"][gpu], fixed_gib=fixed, activations_gib=activations,
            kv_bytes_per_token=per_token,
        ),
        source=Source.ESTIMATED if measured is None else Source.MEASURED, error=error, rows=rows,
    )  # fmt: skip


def _step_times(values: list[float]) -> StepTimes:
    base, request, sqrt, prefill, context = values[:5]
    return StepTimes(
        base_ms=base,
        per_request_ms=request,
        per_prefill_token_ms=prefill,
        per_context_token_ms=context,
        per_sqrt_request_ms=sqrt,
    )


@functools.cache
def _catalog() -> Mapping[str, Any]:
    """The file with its packed columns as entries by `model|precision|gpu|tp`."""
    text = resources.files("adapter.profiles").joinpath("catalog.json").read_text(encoding="utf-8")
    file: dict[str, Any] = json.loads(text)
    models, sizes = file["models"], file["tp"]
    gpus_by_tp = [(gpu, order) for gpu in file["gpus"] for order in range(len(sizes))]
    estimated = {}
    for name, column in file["estimated"].items():
        key, _, precision = name.partition("|")
        model = models[key]
        for (gpu, order), step in zip(
            gpus_by_tp, packing.unpacked(column, _STEP_COLUMNS), strict=True
        ):
            if step is not None:
                split, besides = model["weights"][precision]
                memory = [
                    split / sizes[order] + besides,
                    model["activations_gib"][order],
                    model["kv_bytes_per_token"][order],
                ]
                estimated[f"{name}|{gpu}|{sizes[order]}"] = [*step, *memory]
    measured = {
        name: next(packing.unpacked(column, _MEASURED_COLUMNS))
        for name, column in file["measured"].items()
    }
    return {**file, "estimated": estimated, "measured": measured}


@functools.cache
def _by_alias() -> Mapping[str, Model]:
    by_alias = {}
    for model in models():
        for alias in (model.key, model.name, *_catalog()["models"][model.key].get("aliases", ())):
            by_alias[names.model_key(alias)[0]] = model
    return by_alias


@functools.cache
def _by_letters() -> Mapping[str, Model]:
    """Models by their names without dashes, for `llama3.1-8b`."""
    return {alias.replace("-", ""): model for alias, model in _by_alias().items()}
