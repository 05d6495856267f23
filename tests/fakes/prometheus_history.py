"""A past of emulated vLLM pods: for a real Prometheus as OpenMetrics text, or served as range queries."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

SCRAPE_SECONDS = 15
LOOKBACK_SECONDS = 300
BOUNDS = (10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
Labels = tuple[tuple[str, str], ...]


@dataclass
class PodPast:
    """One pod from `start` to `end`, Unix seconds, scraped every 15 s at whole multiples.

    Attributes:
        restarts: Times at which its process began anew; what it served then is lost.
        unscraped: Times between which no scrape was kept.
        spelling: What its series' names begin with.
        arrivals: Of its requests, Unix seconds, ascending; each takes 20 s.

    """

    name: str
    start: float
    end: float
    model: str = "m"
    namespace: str = "team"
    restarts: tuple[float, ...] = ()
    unscraped: tuple[float, float] = (0.0, 0.0)
    arrivals: list[float] = field(default_factory=list)
    service_seconds: float = 20.0
    seed: int = 0
    spelling: str = "vllm:"

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.came = np.array(self.arrivals)
        self.inputs = rng.integers(1, 450, len(self.arrivals))
        self.outputs = rng.integers(1, 90, len(self.arrivals))

    def labels(self, **more: str) -> Labels:
        """Labels of its series."""
        return tuple({"instance": f"{self.name}:8000", "job": "pods", "namespace": self.namespace,
                      "pod": self.name, **more}.items())  # fmt: skip

    def scrapes(self) -> Iterator[int]:
        """When it was scraped."""
        first = -int(-self.start // SCRAPE_SECONDS) * SCRAPE_SECONDS
        for at in range(first, int(self.end) + 1, SCRAPE_SECONDS):
            if not self.unscraped[0] < at < self.unscraped[1]:
                yield at

    def page(self, at: float) -> dict[tuple[str, Labels], float]:
        """Its series at one time."""
        began = max(time for time in (self.start, *self.restarts) if time <= at)
        came = self.came
        ours = (came >= began) & (came <= at)
        done = ours & (came + self.service_seconds <= at)
        labels = self.labels(model_name=self.model)
        page = {
            ("vllm:num_requests_running", labels): float((ours & ~done).sum()),
            ("vllm:num_requests_waiting", labels): 0.0,
            ("vllm:request_success_total", self.labels(model_name=self.model, finished_reason="stop")):
                float(done.sum()),
            ("process_start_time_seconds", self.labels()): began,
        }  # fmt: skip
        for name, tokens in (("prompt", self.inputs), ("generation", self.outputs)):
            base = f"vllm:request_{name}_tokens"
            page[f"{base}_sum", labels] = float(tokens[done].sum())
            page[f"{base}_count", labels] = float(done.sum())
            for bound in (*BOUNDS, float("inf")):
                text = "+Inf" if bound == float("inf") else str(bound)
                series = f"{base}_bucket", self.labels(le=text, model_name=self.model)
                page[series] = float((tokens[done] <= bound).sum())
        return {
            (name.replace("vllm:", self.spelling), labels): value
            for (name, labels), value in page.items()
        }

    def finished(self, start: float, end: float) -> int:
        """Requests that finished after `start`, up to `end`."""
        done = self.came + self.service_seconds
        return int(((done > start) & (done <= end)).sum())

    def arrived(self, start: float, end: float) -> int:
        """Requests that arrived after `start`, up to `end`."""
        came = self.came
        return int(((came > start) & (came <= end)).sum())


def poisson(rate: float, start: float, end: float, *, seed: int = 0) -> list[float]:
    """Arrivals of a Poisson process, to the millisecond."""
    rng = np.random.default_rng(seed)
    number = rng.poisson(rate * (end - start))
    times: list[float] = np.round(np.sort(rng.uniform(start, end, number)), 3).tolist()
    return times


def openmetrics(pods: list[PodPast]) -> str:
    """All samples, as `promtool tsdb create-blocks-from openmetrics` reads them."""
    lines: dict[tuple[str, Labels], list[str]] = {}
    for pod in pods:
        for at in pod.scrapes():
            for (name, labels), value in pod.page(at).items():
                text = ",".join(f'{key}="{label}"' for key, label in labels)
                lines.setdefault((name, labels), []).append(f"{name}{{{text}}} {value} {at}")
    return "\n".join(line for series in lines.values() for line in series) + "\n# EOF\n"


class HistoryServer:
    """Answers the range queries of `RequestHistory` from such pasts.

    Attributes:
        requests: Queries and their parameters, in order.
        before: Called with the number of each query before it is answered; a returned status is the answer.

    """

    def __init__(self, pods: list[PodPast]) -> None:
        self.pods = pods
        self.requests: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.before: Callable[[int], int | None] = lambda _: None
        self._pages: dict[tuple[str, int], Mapping[tuple[str, Labels], float]] = {}

    @contextmanager
    def running(self) -> Iterator[str]:
        """Yield its URL."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """Answer one query."""
                parts = urlsplit(self.path)
                parameters = {key: values[0] for key, values in parse_qs(parts.query).items()}
                fake.requests.append(parameters)
                fake.headers.append(dict(self.headers))
                code = fake.before(len(fake.requests)) or 200
                result: list[Any] = [] if code != 200 else fake.result(parameters)
                document = {"status": "success", "data": {"resultType": "matrix", "result": result}}
                body = json.dumps(document if code == 200 else {"error": "too many samples"})
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def result(self, parameters: Mapping[str, str]) -> list[Any]:
        """The series of one query, told by its form."""
        query = parameters["query"]
        start, end, step = (int(parameters[name]) for name in ("start", "end", "step"))
        series: dict[Labels, list[tuple[int, str]]] = {}
        for at in range(start, end + 1, step):
            for pod in self._selected(query):
                scraped = self._scraped(pod, at)
                if scraped is not None:
                    for labels, value in self._values(query, pod, scraped).items():
                        series.setdefault(labels, []).append((at, str(value)))
        return [{"metric": dict(labels), "values": values} for labels, values in series.items()]

    def _selected(self, query: str) -> list[PodPast]:
        model = re.search(r'model_name="([^"]*)"', query)
        namespace = re.search(r', namespace="([^"]*)"', query)
        assert (model is None) == query.startswith("count by (namespace, model_name)")
        return [
            pod
            for pod in self.pods
            if (model is None or pod.model == model[1])
            and (namespace is None or pod.namespace == namespace[1])
        ]

    def _scraped(self, pod: PodPast, at: int) -> int | None:
        """The last scrape; None where it is too long ago, or the pod has ended."""
        if at >= pod.end + SCRAPE_SECONDS:
            return None
        last = int(min(at, pod.end)) // SCRAPE_SECONDS * SCRAPE_SECONDS
        for time in range(last, at - LOOKBACK_SECONDS, -SCRAPE_SECONDS):
            if time >= pod.start and not pod.unscraped[0] < time < pod.unscraped[1]:
                return time
        return None

    def _values(self, query: str, pod: PodPast, at: int) -> dict[Labels, float]:
        key = (pod.name, at)
        page = self._pages.get(key)
        if page is None:
            page = self._pages[key] = pod.page(at)
        if "process_start_time_seconds" in query:
            return {pod.labels(): page["process_start_time_seconds", pod.labels()]}
        if "timestamp(" in query:
            known = f"timestamp({pod.spelling}num_requests_running{{" in query
            return {pod.labels(): float(at)} if known else {}
        if 'priority=""' in query:
            return {}
        pattern = re.search(r'__name__=~"([^"]*)"', query)
        assert pattern is not None
        sums: dict[Labels, float] = {}
        for (name, labels), value in page.items():
            if re.fullmatch(pattern[1], name):
                if query.startswith("count by (__name__)"):
                    sums[(("__name__", name),)] = 1.0
                    continue
                if query.startswith("count by (namespace, model_name)"):
                    sums[("namespace", pod.namespace), ("model_name", pod.model)] = 1.0
                    continue
                bound = {key: text for key, text in labels if key == "le"}
                series = tuple({"__name__": name, **bound, **dict(pod.labels())}.items())
                sums[series] = sums.get(series, 0.0) + value
        return sums
