"""Requests of the past, counted per step from the counters of a model's pods in Prometheus.

Growth is taken pod by pod between two evaluations a step apart, instead of by `increase()`: that
extrapolates, so its sums are not those of the counters. A counter that falls, or a process that started
anew, counts from zero. Arrivals are completions plus the growth of what runs and waits, as in
`collector.traffic`: completions alone would show a saturated server's speed, not what was offered to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from adapter.collector import model_servers
from adapter.collector.lookups.prometheus_api import PrometheusApi, RangeSeries
from adapter.collector.servers import spelling

POD_LABELS = "namespace, pod, instance, job"
INPUT_HISTOGRAMS = ("vllm:request_prompt_tokens", "sglang:prompt_tokens_histogram")
OUTPUT_HISTOGRAMS = ("vllm:request_generation_tokens", "sglang:generation_tokens_histogram")
STOCKS = frozenset(
    name
    for quantity in model_servers.QUANTITIES
    if quantity.name in model_servers.STOCKS
    for names in quantity.names
    for name in names
)
_LATENCIES = ("ttft_sum", "ttft_count", "itl_sum", "itl_count", "kv_cache")
COUNTERS = frozenset(
    name
    for quantity in model_servers.QUANTITIES
    if quantity.name not in {*model_servers.STOCKS, *_LATENCIES}
    for names in quantity.names
    for name in names
)
BUCKETS = frozenset(f"{name}_bucket" for name in (*INPUT_HISTOGRAMS, *OUTPUT_HISTOGRAMS))
SERIES = COUNTERS | BUCKETS | STOCKS
"""Names of all series that are queried."""
_PRESENT = tuple(
    names[0]
    for quantity in model_servers.QUANTITIES
    if quantity.name == "running"
    for names in quantity.names
    if len(names) == 1
)
"""A series that each kind of server always has."""
_TOTALS = 'priority="", '
"""Matches what is not one of the parts by priority."""
_SAME_START_SECONDS = 2.0
_STYLES_SECONDS = 240
"""Seconds between two looks for spellings, less than the time for which Prometheus repeats a scrape."""
_LOOKS = 1000
"""Most looks for models in one query; Prometheus refuses 11,000."""

Length = Literal["input", "output"]
Bucket = tuple[float, float]
"""Tokens above the first, up to the second."""


@dataclass(slots=True)
class LengthCounts:
    """Tokens of the requests that finished in a step.

    Attributes:
        tokens: Tokens of all of them.
        count: Number of requests.
        buckets: Number of requests by length; empty where no histogram is kept.

    """

    tokens: float = 0.0
    count: float = 0.0
    buckets: dict[Bucket, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Step:
    """What happened in one step.

    Attributes:
        start: Beginning, Unix seconds.
        seconds: Length.
        pods: Number of pods that were counted; 0: the step has no data.
        arrivals: Requests that arrived; negative where clients disconnected before their requests finished.
        finished: Requests that finished.
        in_service_before: Requests that the counted pods held at the beginning.
        in_service_joined: Requests that pods held which are seen for the first time at the end.

    """

    start: float
    seconds: float
    pods: int = 0
    arrivals: float = 0.0
    finished: float = 0.0
    in_service_before: float = 0.0
    in_service_joined: float = 0.0
    inputs: LengthCounts = field(default_factory=LengthCounts)
    outputs: LengthCounts = field(default_factory=LengthCounts)


@dataclass(slots=True)
class _Point:
    """One pod at one time: its series by name, buckets by name and upper bound."""

    series: dict[str, list[float]] = field(default_factory=dict)
    buckets: dict[tuple[str, float], float] = field(default_factory=dict)
    sampled_at: float = -math.inf
    started_at: float | None = None
    quantities: Mapping[str, float] = field(default_factory=dict)


_Pod = tuple[str, ...]


class RequestHistory:
    """Counts the requests of one model, step by step."""

    def __init__(self, history: PrometheusApi, *, model: str, namespace: str = "") -> None:
        """`namespace`: empty for every namespace."""
        self._history = history
        self._matchers = f"model_name={_quoted(model)}"
        if namespace:
            self._matchers += f", namespace={_quoted(namespace)}"

    def steps(self, start: int, number: int, seconds: int) -> list[Step]:
        """Count `number` steps of that many seconds from `start`, Unix seconds.

        Raises:
            PrometheusError: no usable response.

        """
        end = start + number * seconds
        pods: dict[_Pod, dict[int, _Point]] = {}
        for name, promql in self._queries(self._styles(start, end)).items():
            for series in self._history.range(promql, start=start, end=end, step=seconds):
                _enter(pods, name, series)
        for points in pods.values():
            for at in [at for at in points if at - points[at].sampled_at >= seconds]:
                # Prometheus repeats the last scrape for minutes after it.
                del points[at]
            for point in points.values():
                point.quantities = dict(model_servers.quantities(point.series))
        scraped = {at for points in pods.values() for at in points}
        steps, begin = [], start
        for at in range(start, end, seconds):
            if at not in scraped:
                begin = at + seconds
            steps.append(_step(pods.values(), range(at, begin - 1, -seconds), at, seconds))
        return steps

    def _styles(self, start: int, end: int) -> frozenset[str]:
        """Spellings of the model's series in that time, of which one name at a time has a time of scrape."""
        query = f"count by (__name__) ({spelling.selector(_PRESENT, self._matchers)})"
        # No scrape is missed that a later query would repeat for minutes.
        step = max(min(end - start, _STYLES_SECONDS), 1)
        names = (
            series.labels.get("__name__", "")
            for series in self._history.range(query, start=start, end=end, step=step)
        )
        styles = {form.style for name in names if (form := spelling.spelled(name)) is not None}
        return frozenset(styles) or frozenset(model_servers.PREFIXES)

    def models(self, start: int, end: int) -> list[tuple[str, str]]:
        """Models that had pods from `start` to `end`, Unix seconds: namespace and served model name of each.

        Raises:
            PrometheusError: no usable response.

        """
        query = f"count by (namespace, model_name) ({spelling.selector(_PRESENT)})"
        step = max(min(end - start, _STYLES_SECONDS), (end - start) // _LOOKS, 1)
        return sorted(
            (series.labels.get("namespace", ""), series.labels.get("model_name", ""))
            for series in self._history.range(query, start=start, end=end, step=step)
        )

    def _queries(self, styles: Iterable[str]) -> dict[str, str]:
        def selected(names: Iterable[str], more: str = "") -> str:
            return spelling.selector(frozenset(names), f"{more}{self._matchers}")

        present = " or ".join(
            f"max by ({POD_LABELS}) (timestamp({spelling.restyled(name, style)}{{{self._matchers}}}))"
            for style in sorted(styles)
            for name in _PRESENT
            if name.startswith(spelling.kind_of(style))
        )
        return {
            "sums": f"sum by (__name__, le, {POD_LABELS}) ({selected(SERIES - model_servers.RANKED)})",
            # Ranks of one engine repeat its numbers; those of several add up.
            "ranked": f"sum by (__name__, {POD_LABELS}) (max by (__name__, dp_rank, {POD_LABELS})"
            f" ({selected(model_servers.RANKED, _TOTALS)}))",
            "sampled_at": present,
            "started_at": f"max by ({POD_LABELS}) ({spelling.selector((model_servers.STARTED,))})"
            f" and on ({POD_LABELS}) ({present})",
        }


def _quoted(text: str) -> str:
    escaped = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'


def _enter(pods: dict[_Pod, dict[int, _Point]], query: str, series: RangeSeries) -> None:
    """Put one series' points to its pod's."""
    labels = series.labels
    form = spelling.spelled(labels.get("__name__", ""))
    # Of two spellings of one series, both have its numbers.
    name, bound = "" if form is None else form.name, labels.get("le")
    points = pods.setdefault(tuple(labels.get(label, "") for label in POD_LABELS.split(", ")), {})
    for at, value in series.points:
        if not math.isfinite(value):
            continue
        point = points.setdefault(round(at), _Point())
        if query == "sampled_at":
            point.sampled_at = value
        elif query == "started_at":
            point.started_at = value
        elif bound is not None:
            point.buckets[name, float(bound)] = value
        else:
            point.series[name] = [value]


def _step(
    pods: Iterable[Mapping[int, _Point]], earlier: Sequence[int], at: int, seconds: int
) -> Step:
    """Count the step from `at`; `earlier`: times before its end since the last gap, the latest first."""
    step = Step(start=float(at), seconds=float(seconds))
    for points in pods:
        after = points.get(at + seconds)
        if after is None:
            continue
        # After a pause in its scrapes, a pod is compared with its last sample.
        before = next((points[time] for time in earlier if time in points), None)
        if before is None:
            # A pod that started after the last step but one had not been scraped by its end.
            if after.started_at is None or after.started_at < at - seconds:
                # What it counted before is not known to be of this step.
                step.in_service_joined += _in_service(after)
                continue
            before = _Point()
        step.pods += 1
        step.in_service_before += _in_service(before)
        _add(step, _Point() if _has_restarted(before, after) else before, after)
    return step


def _in_service(point: _Point) -> float:
    return sum(point.quantities.get(name, 0.0) for name in model_servers.STOCKS)


def _has_restarted(before: _Point, after: _Point) -> bool:
    if after.quantities.get("finished", 0.0) < before.quantities.get("finished", 0.0):
        return True
    if after.started_at is None or before.started_at is None:
        return False
    return abs(after.started_at - before.started_at) > _SAME_START_SECONDS


def _add(step: Step, before: _Point, after: _Point) -> None:
    def growth(name: str) -> float:
        return after.quantities.get(name, 0.0) - before.quantities.get(name, 0.0)

    finished = growth("finished")
    step.finished += finished
    step.arrivals += finished + _in_service(after) - _in_service(before)
    for counts, quantity, names in (
        (step.inputs, "prompt_tokens", INPUT_HISTOGRAMS),
        (step.outputs, "generation_tokens", OUTPUT_HISTOGRAMS),
    ):
        counts.tokens += max(growth(f"{quantity}_sum"), 0.0)
        counts.count += max(growth(f"{quantity}_count"), 0.0)
        for bucket, number in _bucket_growth(names, before, after):
            counts.buckets[bucket] = counts.buckets.get(bucket, 0.0) + number


def _bucket_growth(
    names: Sequence[str], before: _Point, after: _Point
) -> Iterator[tuple[Bucket, float]]:
    """How many came into each bucket, of the first histogram that there is."""
    for name in names:
        key = f"{name}_bucket"
        bounds = sorted(bound for series, bound in after.buckets if series == key)
        lower, below = 0.0, 0.0
        for bound in bounds:
            up_to = after.buckets[key, bound] - before.buckets.get((key, bound), 0.0)
            if up_to > below:
                yield (lower, bound), up_to - below
            lower, below = bound, max(up_to, below)
        if bounds:
            return
