"""What was collected of one variant, and what it is worth: found, missing, stale, or a failure of Prometheus.

A load of which a part is missing is still a lower bound: it may raise a target, but not lower it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from adapter.collector import attribution
from adapter.collector.prometheus_scraper import LENGTHS_SECONDS, LengthVariation
from adapter.collector.servers.plausibility import Plausibility
from adapter.collector.traffic import Traffic
from adapter.collector.windows.paired import PairedWindow
from adapter.resources.variant import VariantSource

Metrics = Literal["MetricsFound", "MetricsMissing", "MetricsStale", "PrometheusError"]
"""Reasons of the condition MetricsAvailable, as the workload-variant-autoscaler has them."""

VARIATION_SECONDS = 3.0 * LENGTHS_SECONDS
"""Age at which a variation of lengths no longer counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectedVariant:
    """One variant in the collector.

    Attributes:
        source: The variant as its objects describe it.
        window: Growth of its pods' counters; like the next part it accumulates.
        plausibility: What is wrong with the pages of its pods.
        known_since: When each endpoint of the source appeared, monotonic seconds.
        series_pods: Pods, and further servers of a pod, known only by their series in Prometheus, with the
            time of the last answer that had them, monotonic seconds.
        origins: Where each endpoint's last metrics came from: direct or prometheus.
        attributed_by: How its series in Prometheus were attributed; empty without any.
        attribution_problem: Why some of its series could not be used; empty without such ones.
        queried: Whether the last scrape cycle queried Prometheus for it.
        variation: Variation of lengths by Prometheus; None where it was not queried.

    """

    source: VariantSource
    window: PairedWindow
    plausibility: Plausibility = field(default_factory=Plausibility)
    known_since: Mapping[str, float] = field(default_factory=dict)
    series_pods: Mapping[str, float] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    attributed_by: str = ""
    attribution_problem: str = ""
    queried: bool = False
    variation: LengthVariation | None = None


def with_source(before: CollectedVariant, source: VariantSource, *, now: float) -> CollectedVariant:
    """The record with new objects, at monotonic `now`: what is known of pods that stay is kept."""
    # Pods that the objects name make those that only Prometheus knows superfluous, but for further servers.
    named = source.endpoints or source.pods_known
    series_pods = {
        name: at
        for name, at in before.series_pods.items()
        if not named
        or (attribution.pod_of(name) != name and attribution.pod_of(name) in source.endpoints)
    }
    known = (*source.endpoints, *series_pods)
    before.window.pair(source.prefilling)
    before.window.retain(known)
    before.plausibility.retain(known)
    return replace(
        before,
        source=source,
        known_since={e: before.known_since.get(e, now) for e in source.endpoints},
        series_pods=series_pods,
        origins={e: before.origins[e] for e in known if e in before.origins},
    )


def with_series_pods(
    before: CollectedVariant, present: Iterable[str], *, now: float, oldest: float
) -> CollectedVariant:
    """The record with the pods that only Prometheus knows.

    Args:
        before: Before this answer.
        present: Endpoints of such pods in the answer.
        now: Monotonic seconds.
        oldest: Seconds after which pods that are in no answer are dropped.

    """
    pods = {**before.series_pods, **dict.fromkeys(present, now)}
    if not pods:
        return before
    fresh = {endpoint: at for endpoint, at in pods.items() if now - at <= oldest}
    if fresh.keys() != pods.keys():
        before.window.retain((*before.source.endpoints, *fresh))
    # From when there are some, they are queried for.
    return replace(before, series_pods=fresh, queried=before.queried or bool(fresh))


def without_unasked(
    variants: Mapping[str, CollectedVariant], *, asked: bool
) -> dict[str, CollectedVariant]:
    """The records without further servers of those that Prometheus is not asked for; `asked`: for any."""
    kept = dict(variants)
    for key, item in variants.items():
        if item.series_pods and not (asked and item.queried):
            pods = {e: at for e, at in item.series_pods.items() if attribution.pod_of(e) == e}
            if len(pods) < len(item.series_pods):
                item.window.retain((*item.source.endpoints, *pods))
                kept[key] = replace(item, series_pods=pods)
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Which pods of a variant have fresh metrics.

    Attributes:
        expected: Endpoints of the pods that should have metrics.
        late: Those without fresh metrics, though they had the time for them.
        starting: Those that appeared so recently that they need not have been scraped.
        unlisted: Replicas beyond those known by their series, or by listed addresses; pods may share one.
        heard: Whether any of them answers, be it with a page that cannot be.

    """

    expected: tuple[str, ...]
    late: tuple[str, ...] = ()
    starting: tuple[str, ...] = ()
    unlisted: int = 0
    heard: bool = False

    @property
    def stale(self) -> tuple[str, ...]:
        """All without fresh metrics."""
        return tuple(e for e in self.expected if e in {*self.late, *self.starting})


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The load of one variant as far as it is known.

    Attributes:
        traffic: Its traffic; None while nothing is known.
        metrics: Reason of the condition MetricsAvailable.
        problem: What is wrong and what to do; empty where the load is known.
        complete: Whether all of its pods have metrics; otherwise the load is a lower bound.
        age_seconds: Age of the oldest pod's metrics.
        origin: Where the metrics come from: direct, prometheus, or both.
        how: How its series in Prometheus were attributed; empty without any.
        heard: Whether any of its pods answers, be it with a page that cannot be.
        note: What the load lacks though it is known as far as it can be; empty where it lacks nothing.
        gateway: What the gateway knows of it beside: requests in flight, saturation; empty without any.
        gateway_problem: Why a gateway of its namespace cannot be read; empty while all can be.

    """

    traffic: Traffic | None
    metrics: Metrics = "MetricsFound"
    problem: str = ""
    complete: bool = True
    age_seconds: float = 0.0
    origin: str = ""
    how: str = ""
    heard: bool = False
    note: str = ""
    gateway: str = ""
    gateway_problem: str = ""

    @property
    def usable(self) -> bool:
        """Whether a reconcile cycle can size the variant with it."""
        if not self.problem:
            return True
        # Without the length of requests nothing can be sized.
        return self.traffic is not None and self.traffic.output_tokens is not None


def coverage(
    source: VariantSource,
    collected: CollectedVariant,
    *,
    now: float,
    stale_after: float,
    failing: Mapping[str, bool],
    scraped: bool,
) -> Coverage:
    """Which of the variant's pods have fresh metrics.

    Args:
        source: The variant as its objects describe it now.
        collected: What was collected of it.
        now: Monotonic seconds.
        stale_after: Age in seconds at which a pod's metrics no longer count.
        failing: Endpoints whose last direct scrape failed, and whether no model server answered there.
        scraped: Whether it has a source of metrics at all.

    """
    window = collected.window
    rows = (*source.endpoints, *sorted(collected.series_pods))
    stale = window.stale(tuple(dict.fromkeys(rows)), now=now, after_seconds=stale_after)
    if needless := _without_server(source, collected, stale, failing):
        rows = tuple(endpoint for endpoint in rows if endpoint not in needless)
        stale = [endpoint for endpoint in stale if endpoint not in needless]
    expected = tuple(dict.fromkeys(rows))
    # A pod that has just appeared was not scraped yet, which is no fault.
    starting = [
        endpoint
        for endpoint in stale
        if scraped
        and now - collected.known_since.get(endpoint, -1e9) < stale_after
        and window.sampled_at(endpoint) is None
        and endpoint not in failing
        and not collected.plausibility.problem(endpoint)
    ]
    return Coverage(
        expected=expected,
        late=tuple(endpoint for endpoint in stale if endpoint not in starting),
        starting=tuple(starting),
        unlisted=max((len(rows) if source.pods or not rows else source.replicas) - len({*rows}), 0),
        heard=len(stale) < len(expected)
        or any(collected.plausibility.answered(e, since=now - stale_after) for e in stale),
    )


def _without_server(
    source: VariantSource,
    collected: CollectedVariant,
    stale: Sequence[str],
    failing: Mapping[str, bool],
) -> frozenset[str]:
    """Endpoints without a model server though nothing is missing: other ports of a pod, ranks of a group.

    None has ever answered there, nothing listens or what does has no metrics of one, and as many pods as
    there are replicas answer; or another one of its pod or group does, or is not ready yet.
    """
    pod_of = dict(zip(source.endpoints, source.pods, strict=False))
    unit_of = {e: source.beside.get(e, pod) for e, pod in pod_of.items()}
    heard = [e for e in pod_of if e not in stale]
    enough = len({pod_of[e] for e in heard}) >= max(source.replicas, 1)
    answering = {"", *(unit_of[e] for e in heard)}
    return frozenset(
        e
        for e in stale
        if collected.window.sampled_at(e) is None
        and failing.get(e)
        and not collected.plausibility.problem(e)
        and (enough or unit_of.get(e) in answering)
    )


def with_variations(
    variants: Mapping[str, CollectedVariant], variations: Mapping[str, LengthVariation]
) -> dict[str, CollectedVariant]:
    """The records, by key, with the variations of lengths that were queried."""
    return {
        key: replace(item, variation=variations.get(key, item.variation))
        for key, item in variants.items()
    }


def with_variation(
    traffic: Traffic | None, variation: LengthVariation | None, *, now: float
) -> Traffic | None:
    """The traffic with the variation of lengths by Prometheus where the pods themselves show none."""
    if traffic is None or variation is None or now - variation.at > VARIATION_SECONDS:
        return traffic
    return replace(
        traffic,
        input_cv=variation.input_cv if traffic.input_cv is None else traffic.input_cv,
        output_cv=variation.output_cv if traffic.output_cv is None else traffic.output_cv,
        short_answers=traffic.short_answers or variation.short_answers,
    )


def assess(
    source: VariantSource,
    collected: CollectedVariant,
    covered: Coverage,
    *,
    now: float,
    error: str,
    prometheus_failed: bool,
) -> Observation:
    """What the collected metrics of a variant are worth.

    Args:
        source: The variant as its objects describe it now.
        collected: What was collected of it.
        covered: Which of its pods have fresh metrics.
        now: Monotonic seconds.
        error: What the sources of metrics say of those that have none.
        prometheus_failed: Whether Prometheus was queried for it in vain.

    """
    traffic = with_variation(collected.window.traffic(now=now), collected.variation, now=now)
    origins = {collected.origins.get(endpoint, "") for endpoint in covered.expected} - {""}

    def observed(metrics: Metrics, problem: str = "", *, complete: bool = False) -> Observation:
        return Observation(
            traffic=traffic,
            metrics="PrometheusError" if prometheus_failed and problem else metrics,
            problem=problem,
            complete=complete,
            age_seconds=0.0 if traffic is None else max(now - traffic.sampled_at, 0.0),
            origin=" and ".join(sorted(origins)),
            how=collected.attributed_by if "prometheus" in origins else "",
            heard=covered.heard,
            note=_part(source, covered) or _not_counted(collected, covered),
        )

    if not covered.expected:
        if source.replicas == 0 and source.spec_replicas == 0:
            return observed("MetricsFound", complete=True)
        why = error or source.unselected or "no endpoints to scrape"
        return observed("MetricsMissing", f"{source.replicas} replicas, but {why}")
    hung = _hung(collected, covered)
    if hung and traffic is not None and not traffic.idle:
        served = [endpoint for endpoint in hung if collected.plausibility.moved(endpoint)]
        traffic = _shared(traffic, len(covered.expected) - len(hung), len(served))
        note = f"{hung[0]}: {collected.plausibility.problem(hung[0])}; {_AS_OTHERS}"
        return replace(observed("MetricsFound", complete=True), note=note)
    if covered.late:
        sampled_at, problem = collected.window.sampled_at, collected.plausibility.problem
        never = [e for e in covered.stale if sampled_at(e) is None and not problem(e)]
        missing = len(never) >= len(covered.expected)
        metrics: Metrics = "MetricsMissing" if missing else "MetricsStale"
        # Without one pod's metrics the load would look too small.
        pods = f"{len(covered.late)} of {len(covered.expected)} pods: {error or covered.late[0]}"
        return observed(metrics, f"no fresh metrics from {pods}")
    part = _of_engines(collected, covered, now=now)
    if lacking := _lacking(traffic, source):
        return observed("MetricsMissing", lacking)
    whole = not (part or covered.starting or covered.unlisted)
    return observed("MetricsStale" if part else "MetricsFound", part, complete=whole)


def _of_engines(collected: CollectedVariant, covered: Coverage, *, now: float) -> str:
    """Why an address's load is a part, as one of its engines hangs or it began anew; empty for none."""
    engine, anew = collected.plausibility.part, collected.window.part
    parts = ((e, engine(e) or anew(e, now=now)) for e in covered.expected)
    return next((f"{endpoint}: {text}" for endpoint, text in parts if text), "")


def _not_counted(collected: CollectedVariant, covered: Coverage) -> str:
    """What of one pod's page is not counted; empty for nothing."""
    notes = ((e, collected.plausibility.note(e)) for e in covered.expected)
    return next((f"{endpoint}: {text}" for endpoint, text in notes if text), "")


def _lacking(traffic: Traffic | None, source: VariantSource) -> str:
    """What is not known yet though every pod answers; empty where nothing is missing."""
    if traffic is None:
        return "waiting for the second scrape"
    # Without a profile the saturation rule decides, which needs no lengths.
    if traffic.output_tokens is None and not traffic.idle and source.profiles:
        return "requests run, but none has finished yet: their lengths are unknown"
    return ""


_AS_OTHERS = (
    "its gauges are no queue; if it ever served, it is taken to get as many requests as each of the other"
    " pods"
)


def _hung(collected: CollectedVariant, covered: Coverage) -> tuple[str, ...]:
    """Pods that have stood still for as long as rates are taken over, where they alone are not known.

    Until then the target is held. Their gauges are no backlog then. What comes to an engine that hangs is not
    seen: as much as to each other pod, if it ever served since it is known. One that never did has no part.
    """
    seconds = collected.window.long_seconds
    hung = tuple(e for e in covered.late if collected.plausibility.still_seconds(e) >= seconds)
    alone = len(hung) == len(covered.late) and not covered.starting and not covered.unlisted
    return hung if alone and len(hung) < len(covered.expected) else ()


def _shared(traffic: Traffic, heard: int, hung: int) -> Traffic:
    """Rates of all pods, where those that hang get as many requests as each of those that are heard."""
    factor = 1.0 + hung / heard
    return replace(
        traffic,
        arrival_rate_rps=factor * traffic.arrival_rate_rps,
        long_rate_rps=factor * traffic.long_rate_rps,
        recent=tuple((length, factor * rate) for length, rate in traffic.recent),
        sudden=tuple((length, factor * rate) for length, rate in traffic.sudden),
    )


def _part(source: VariantSource, covered: Coverage) -> str:
    """Note that there are fewer addresses than ready replicas; empty where there are enough."""
    if not covered.unlisted:
        return ""
    return (
        f"{len(covered.expected)} addresses for {source.replicas} replicas: the load is a part, so the target"
        " may rise and not fall; name one address per replica"
    )
