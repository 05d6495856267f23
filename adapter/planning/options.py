"""Accelerator options of variants: what they are sized for together, and what sizing answers, as columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from adapter.planning import fleet as fleets
from analyzer import capacity, defaults
from analyzer.replicas import BoolArray, FloatArray

IntArray = NDArray[np.int64]

Binding = Literal["ttft", "itl", "tps", "kv", "stability"]
BINDINGS: tuple[Binding, ...] = ("ttft", "itl", "tps", "kv", "stability")


class AcceleratorOption(NamedTuple):
    """One accelerator that a variant may run on: sized, it gives a candidate.

    Attributes:
        max_batch: largest number of requests in service, scaled to the output tokens.

    """

    variant: fleets.Variant
    profile: fleets.Profile
    accelerator: fleets.Accelerator
    targets: fleets.Targets
    max_batch: int


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why a variant, or one of its accelerators, gives no candidate.

    Attributes:
        reason: one clause.
        accelerator: name of the accelerator; empty where the variant itself is the reason.

    """

    reason: str
    accelerator: str = ""

    def __str__(self) -> str:
        """Accelerator and reason."""
        return f"{self.accelerator}: {self.reason}" if self.accelerator else self.reason


class Options:
    """M options, those of one variant side by side: what they share is read once, from the first of them."""

    def __init__(self, options: Sequence[AcceleratorOption]) -> None:
        self.each = options
        """They themselves."""
        firsts: list[AcceleratorOption] = []
        starts: list[int] = []
        last: fleets.Variant | None = None
        for row, option in enumerate(options):
            if option.variant is not last:
                last = option.variant
                firsts.append(option)
                starts.append(row)
        self._firsts = firsts
        self.starts: IntArray = np.array(starts, dtype=np.int64)
        """Rows at which the options of a variant begin."""
        self._places = np.repeat(np.arange(len(firsts)), np.diff(self.starts, append=len(options)))

    def __len__(self) -> int:
        """M."""
        return len(self.each)

    def __getitem__(self, row: int) -> AcceleratorOption:
        """One of them."""
        return self.each[row]

    def take(self, rows: NDArray[np.intp]) -> Options:
        """Those of some rows, which rise."""
        if rows.size == len(self):
            return self
        return Options([self.each[row] for row in rows.tolist()])

    def by_variant(self, numbers: Callable[[AcceleratorOption], tuple[float, ...]]) -> FloatArray:
        """Numbers that the options of one variant share, shape (M, K)."""
        rows = [numbers(option) for option in self._firsts]
        table: FloatArray = np.array(rows, dtype=np.float64)[self._places]
        return table

    def of_variants(self, number: Callable[[fleets.Variant], float]) -> NDArray[Any]:
        """A number of the variant of each, shape (M,)."""
        column = np.array([number(option.variant) for option in self._firsts])
        return column[self._places]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requirements:
    """What M options are sized for, fields of shape (M,) but the last; NaN where there is no such target.

    Attributes:
        rate_rps: requests per second of all replicas together; a tokens-per-second target is a floor.
        margin: share of a replica's throughput kept free, of profiles of alpha to delta.
        step_margin: the same of step times.
        shared: whether the replicas share their queue behind a load-aware gateway.
        dispersion: variance of the number of arrivals over its mean.
        dispersion_seconds: length of the windows in which that was measured; 0: it holds for any length.

    """

    rate_rps: FloatArray
    ttft_ms: FloatArray
    itl_ms: FloatArray
    tps: FloatArray
    percentile: FloatArray
    margin: FloatArray
    step_margin: FloatArray
    shared: BoolArray
    dispersion: FloatArray
    dispersion_seconds: float = 0.0

    def select(self, rows: NDArray[np.intp]) -> Requirements:
        """Those of some of the options."""
        return Requirements(
            rate_rps=self.rate_rps[rows],
            ttft_ms=self.ttft_ms[rows],
            itl_ms=self.itl_ms[rows],
            tps=self.tps[rows],
            percentile=self.percentile[rows],
            margin=self.margin[rows],
            step_margin=self.step_margin[rows],
            shared=self.shared[rows],
            dispersion=self.dispersion[rows],
            dispersion_seconds=self.dispersion_seconds,
        )

    def dispersion_over(self, seconds: FloatArray) -> FloatArray:
        """Dispersion of the arrivals within so many seconds, shape (M,).

        In windows much shorter than the rate takes to change, what it adds to the variance over the mean is
        in proportion to their length.
        """
        if self.dispersion_seconds <= 0:
            return np.maximum(self.dispersion, 1.0)
        part = np.minimum(seconds / self.dispersion_seconds, 1.0)
        return np.asarray(1.0 + part * np.maximum(self.dispersion - 1.0, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sized:
    """What one replica of each of M options carries, and how many are needed.

    Attributes:
        goodput_rps: requests per second that a replica finishes within the targets; shape (M,).
        binding: shape (M,), index into `BINDINGS`; the target that cannot be met where one cannot.
        needed: shape (M,), replicas that the rate needs; meaningless where a target cannot be met.
        max_batch: shape (M,), requests in service per replica.
        unreachable: why no load meets the targets, by row.

    """

    goodput_rps: FloatArray
    binding: NDArray[np.int8]
    needed: IntArray
    max_batch: IntArray
    unreachable: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SteadyState:
    """Mean latencies (ms) and share of requests turned away, each of shape (M,)."""

    ttft_ms: FloatArray
    itl_ms: FloatArray
    blocking: FloatArray


class Model(Protocol):
    """Replicas of M options under one model of a replica."""

    def size(self, asked: Requirements) -> Sized:
        """Replicas that the rates need."""
        ...

    def steady(
        self, rows: NDArray[np.intp], asked: Requirements, replicas: IntArray
    ) -> SteadyState:
        """What that many replicas, at least 1, of some rows do; `asked` and `replicas` are of these rows."""
        ...

    def together(self, rows: NDArray[np.intp], asked: Requirements, replicas: IntArray) -> float:
        """Requests per second within the targets of one of that many replicas of one row, shapes (1,)."""
        ...

    def reason(self, row: int, binding: Binding, rate_rpm: float) -> str:
        """What bounds a replica of one row to the rate, as one clause."""
        ...

    def reason_together(self, row: int) -> str:
        """What a load-aware gateway in front of several replicas of one row changes, for its reason."""
        ...


_SHOWN = {"ttft": "TTFT", "itl": "ITL", "tps": "tokens/s", "kv": "KV cache"}


def bounded(binding: Binding, rate_rpm: float) -> str:
    """Clause of a reason that says what bounds a replica to a rate, in requests per minute."""
    return f"{_SHOWN.get(binding, binding)} bounds a replica to {rate_rpm:.2f} req/min"


def output_tokens(variant: fleets.Variant) -> float:
    """At least the one that a request is answered with."""
    return max(variant.load.output_tokens, 1.0)


def options_of(fleet: fleets.Fleet, refused: Mapping[str, list[Unusable]]) -> Options:
    """Everything to be sized; what cannot be is added to what is `refused`, by variant name."""
    options: list[AcceleratorOption] = []
    accelerators = {accelerator.name: accelerator for accelerator in fleet.accelerators}
    classes = {service_class.name: service_class for service_class in fleet.service_classes}
    for variant in fleet.variants:
        unusable = refused[variant.name]
        service_class = classes.get(variant.service_class)
        targets = service_class.targets.get(variant.model) if service_class else None
        if targets is None:
            unusable.append(
                Unusable(
                    f"service class {variant.service_class!r} has no targets for model {variant.model!r}"
                )
            )
            continue
        profiles = variant.profiles
        if variant.keep_accelerator and variant.current.accelerator:
            profiles = tuple(p for p in profiles if p.accelerator == variant.current.accelerator)
            if not profiles:
                unusable.append(
                    Unusable(
                        f"must keep accelerator {variant.current.accelerator!r}, which has no profile;"
                        f" there are of {', '.join(p.accelerator for p in variant.profiles) or 'none'}"
                    )
                )
        answered = output_tokens(variant)
        for profile in profiles:
            accelerator = accelerators.get(profile.accelerator)
            if accelerator is None:
                unusable.append(
                    Unusable("unknown accelerator, it has no unit cost", profile.accelerator)
                )
                continue
            max_batch = variant.max_batch or capacity.scaled_max_batch(
                profile.max_batch, profile.at_tokens, answered
            )
            max_batch = min(max_batch, fleets.LARGEST_BATCH)
            options.append(AcceleratorOption(variant, profile, accelerator, targets, max_batch))
    return Options(options)


def requirements(options: Options, settings: fleets.Settings) -> Requirements:
    """Targets and rates as columns."""
    margin, step_margin = settings.stability_margin, settings.step_margin
    # A tokens-per-second target asks for nothing but stability: its margin is never given up.
    margins = margin, step_margin
    token_margins = max(margin, defaults.STABILITY_MARGIN), max(step_margin, defaults.HEADROOM)

    def numbers(option: AcceleratorOption) -> tuple[float, ...]:
        targets, load = option.targets, option.variant.load
        return (
            load.arrival_rate_rps,
            output_tokens(option.variant),
            targets.ttft_ms or math.nan,
            targets.itl_ms or math.nan,
            targets.tps,
            targets.percentile or math.nan,
            *(token_margins if targets.tps else margins),
            option.variant.routing == "least-loaded",
            load.dispersion,
        )

    rate, output, ttft, itl, tps, percentile, margin, step_margin, shared, dispersion = (
        np.ascontiguousarray(options.by_variant(numbers).T)
    )
    return Requirements(
        rate_rps=capacity.rate_to_serve(rate, tps, output),
        ttft_ms=ttft,
        itl_ms=itl,
        tps=np.where(tps > 0, tps, math.nan),
        percentile=percentile,
        margin=margin,
        step_margin=step_margin,
        shared=shared > 0,
        dispersion=dispersion,
        dispersion_seconds=settings.dispersion_seconds,
    )
