"""The past of one variant, read back from the series that the adapter itself exposes to Prometheus.

One subquery per variant: every series of it, one sample a step. Its client is another than that of the scrape
cycle, so that a cycle never waits for it.
https://prometheus.io/docs/prometheus/latest/querying/basics/#subquery
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray

from adapter.collector.prometheus import PrometheusClient, PrometheusOptions

LIMIT_BYTES = 2 * 1024 * 1024
"""Longest response; six hours a minute of all series of a variant are some 150 KB."""

MOST_SECONDS = 10.0
"""Deadline of a query, where --prometheus-timeout is no shorter."""

MOST_POINTS = 1000
"""Most samples per series in one query."""

_LATENCY = "variant_adapter_observed_latency_milliseconds"
_PREDICTED = "variant_adapter_predicted_latency_milliseconds"
_SERIES: Mapping[tuple[str, str, str], str] = {
    ("variant_adapter_observed_arrival_rate_per_minute", "", ""): "offered",
    ("variant_adapter_arrival_rate_per_minute", "", ""): "planned",
    ("variant_adapter_observed_waiting_requests", "", ""): "waiting",
    ("variant_adapter_advised_replicas", "", ""): "desired",
    ("inferno_desired_replicas", "", ""): "desired",
    ("inferno_current_replicas", "", ""): "ready",
    ("variant_adapter_observed_ttft_milliseconds", "", ""): "ttft",
    ("variant_adapter_observed_itl_milliseconds", "", ""): "itl",
    (_PREDICTED, "ttft", ""): "ttft_predicted",
    (_PREDICTED, "itl", ""): "itl_predicted",
    (_LATENCY, "ttft", "0.5"): "ttft_p50",
    (_LATENCY, "ttft", "0.95"): "ttft_p95",
    (_LATENCY, "itl", "0.5"): "itl_p50",
    (_LATENCY, "itl", "0.95"): "itl_p95",
    ("variant_adapter_observed_kv_cache_usage_ratio", "", ""): "kv",
    ("variant_adapter_target_cost_cents_per_hour", "", ""): "cost",
}
"""Quantity by the name of its series and its labels `metric` and `quantile`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What Prometheus has of one variant.

    Attributes:
        times: Unix seconds by the clock of Prometheus, ascending, shape (K,).
        step: Seconds between two of them.
        values: Numbers by quantity, each of shape (K,); NaN where there is none.

    """

    times: NDArray[np.float64]
    step: float
    values: Mapping[str, NDArray[np.float32]]


class PastReader:
    """Reads from one Prometheus, or none."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """Nothing is sent yet; `session` stays the caller's to close."""
        self._session = session
        self._client: PrometheusClient | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a Prometheus to query."""
        return self._client is not None

    def connect(self, options: PrometheusOptions | None) -> None:
        """Query that Prometheus from now on; None ends it."""
        self.close()
        if options is None:
            self._client = None
            return
        options = replace(options, timeout_seconds=min(options.timeout_seconds, MOST_SECONDS))
        self._client = PrometheusClient(self._session, options)
        self._client.limit_bytes = LIMIT_BYTES

    def close(self) -> None:
        """Refuse further queries."""
        if self._client is not None:
            self._client.close()

    async def read(self, namespace: str, name: str, *, seconds: float, step: float) -> Past | None:
        """Read the last seconds of one variant, a sample per step; None without a Prometheus.

        Raises:
            PrometheusError: No usable response.

        """
        client = self._client
        if client is None:
            return None
        body = await client.response(query(namespace, name, seconds=seconds, step=step))
        try:
            return await asyncio.to_thread(parse, body, step)
        except (
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            AttributeError,
            RecursionError,
        ) as error:
            raise client.options.error(
                f"the response is not a matrix ({type(error).__name__}); is the URL right?"
            ) from error


def query(namespace: str, name: str, *, seconds: float, step: float) -> str:
    """The subquery for every series of a variant.

    Where the scrape keeps labels of its own, the variant's namespace is in `exported_namespace`. A replica
    that led before has the same series from another pod: the largest counts.
    """
    names = "|".join(sorted({key[0] for key in _SERIES}))
    variant = f'__name__=~"{names}", variant_name={_quoted(name)}'
    where = _quoted(namespace)
    kept = f"{{{variant}, namespace={where}, exported_namespace=~{_quoted('|' + _literal(namespace))}}}"
    moved = f"{{{variant}, exported_namespace={where}}}"
    span, every = max(round(seconds), 1), max(round(step), 1)
    return f"max by (__name__, metric, quantile) ({kept} or {moved})[{span}s:{every}s]"


def _literal(text: str) -> str:
    """A regular expression (RE2) for the text itself."""
    return "".join(f"\\{one}" if one in r"\.+*?()|[]{}^$" else one for one in text)


def _quoted(text: str) -> str:
    """A string of PromQL."""
    return json.dumps(text, ensure_ascii=False)


def parse(body: bytes, step: float) -> Past:
    """Read the response to `query`.

    Raises:
        ValueError: It is not JSON, has too many points, or a value is not a number.
        KeyError, TypeError, IndexError, AttributeError, RecursionError: It is no matrix.

    """
    result = json.loads(body)["data"]["result"]
    by_quantity: dict[str, dict[float, float]] = {}
    for series in result:
        labels: Mapping[str, Any] = series["metric"]
        key = (labels.get("__name__", ""), labels.get("metric", ""), labels.get("quantile", ""))
        quantity = _SERIES.get(key)
        if quantity is None:
            continue
        points = by_quantity.setdefault(quantity, {})
        for at, value in series["values"]:
            if math.isfinite(number := float(value)):
                points[float(at)] = number
    times = sorted({at for points in by_quantity.values() for at in points})
    if len(times) > MOST_POINTS or not all(map(math.isfinite, times)):
        raise ValueError("times")
    return Past(
        times=np.array(times, dtype=np.float64),
        step=step,
        values={
            name: np.array([points.get(at, math.nan) for at in times], dtype=np.float32)
            for name, points in by_quantity.items()
        },
    )
