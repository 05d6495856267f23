"""Metrics page of an emulated vLLM server whose engine schedules as vLLM: series and buckets of vLLM 0.33.

Latencies are in scenario seconds. An aborted request counts nowhere, as in vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from emulator.engine import Request
from emulator.engines.protocol import Completion, EngineState
from emulator.engines.step_times import BLOCK_TOKENS, SchedulerLimits

TOKEN_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
ITL_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80),
)
TTFT_BUCKETS_MS = tuple(1000.0 * bound for bound in TTFT_BUCKETS)
ITL_BUCKETS_MS = tuple(1000.0 * bound for bound in ITL_BUCKETS)
REQUEST_BUCKETS = (
    *(0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60),
    *(120, 240, 480, 960, 1920, 7680),
)
PREEMPTION_BUCKETS = (1, 2, 3, 4, 5, 10, 20)
FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")
REJECTION_REASONS = ("max_num_queued_reqs", "max_num_queued_tokens")


class SchedulerMetrics:
    """Series of one engine."""

    def __init__(self, model: str, limits: SchedulerLimits) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._labels = {"model_name": model, "engine": "0"}
        self._shown: dict[str, float] = {}
        self._running = self._gauge("num_requests_running", "Requests in service.")
        self._waiting = self._gauge("num_requests_waiting", "Requests waiting.")
        reasons = Gauge(
            "vllm:num_requests_waiting_by_reason",
            "Requests waiting, by reason.",
            (*self._labels, "reason"),
            registry=self.registry,
        )
        self._capacity = reasons.labels(*self._labels.values(), "capacity")
        reasons.labels(*self._labels.values(), "deferred")
        self._kv_usage = self._gauge("kv_cache_usage_perc", "KV-cache usage; 1 means full.")
        self._preemptions = self._counter("num_preemptions", "Preemptions.")
        self._prompt = self._counter("prompt_tokens", "Prefill tokens.")
        self._cached = self._counter("prompt_tokens_cached", "Cached prompt tokens.")
        self._generation = self._counter("generation_tokens", "Generated tokens.")
        finished = Counter(
            "vllm:request_success",
            "Requests ended.",
            (*self._labels, "finished_reason"),
            registry=self.registry,
        )
        children = {
            name: finished.labels(*self._labels.values(), name) for name in FINISHED_REASONS
        }
        self._finished = children["length"]
        rejections = Counter(
            "vllm:admission_rejections",
            "Requests rejected by a queue limit.",
            ("model_name", "reason"),
            registry=self.registry,
        )
        self._rejections = {name: rejections.labels(model, name) for name in REJECTION_REASONS}
        self._latencies()
        self._lengths()
        self._cache_config(limits)

    def _gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(f"vllm:{name}", text, tuple(self._labels), registry=self.registry)
        return gauge.labels(**self._labels)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(f"vllm:{name}", text, tuple(self._labels), registry=self.registry)
        return counter.labels(**self._labels)

    def _histogram(self, name: str, buckets: Sequence[float]) -> Histogram:
        text = f"{name.replace('_', ' ').capitalize()}."
        return Histogram(
            f"vllm:{name}", text, tuple(self._labels), buckets=buckets, registry=self.registry
        ).labels(**self._labels)

    def _latencies(self) -> None:
        self._ttft = self._histogram("time_to_first_token_seconds", TTFT_BUCKETS)
        self._itl = self._histogram("inter_token_latency_seconds", ITL_BUCKETS)
        self._tpot = self._histogram("request_time_per_output_token_seconds", ITL_BUCKETS)
        self._e2e = self._histogram("e2e_request_latency_seconds", REQUEST_BUCKETS)
        self._queue = self._histogram("request_queue_time_seconds", REQUEST_BUCKETS)
        self._inference = self._histogram("request_inference_time_seconds", REQUEST_BUCKETS)
        self._prefill = self._histogram("request_prefill_time_seconds", REQUEST_BUCKETS)
        self._decode = self._histogram("request_decode_time_seconds", REQUEST_BUCKETS)

    def _lengths(self) -> None:
        self._request_prompt = self._histogram("request_prompt_tokens", TOKEN_BUCKETS)
        self._request_generation = self._histogram("request_generation_tokens", TOKEN_BUCKETS)
        self._computed = self._histogram("request_prefill_kv_computed_tokens", TOKEN_BUCKETS)
        self._preempted = self._histogram("request_num_preemptions", PREEMPTION_BUCKETS)

    def _cache_config(self, limits: SchedulerLimits) -> None:
        """An info series without the model's name; `num_gpu_blocks` counts the one that no request gets."""
        labels = {
            "engine": "0",
            "block_size": str(BLOCK_TOKENS),
            "cache_dtype": "auto",
            "enable_prefix_caching": "False",
            "kv_cache_size_tokens": str((limits.kv_blocks + 1) * BLOCK_TOKENS),
            "num_gpu_blocks": str(limits.kv_blocks + 1),
        }
        info = Gauge(
            "vllm:cache_config_info", "Cache configuration.", tuple(labels), registry=self.registry
        )
        info.labels(**labels).set(1)

    def token(self, request: Request, gap_ms: float) -> None:
        """One token was generated."""
        (self._itl if request.generated else self._ttft).observe(gap_ms / 1000)

    def finish(self, done: Completion) -> None:
        """One request was served to its end."""
        self._finished.inc()
        self._request_prompt.observe(done.input_tokens)
        self._request_generation.observe(done.output_tokens)
        self._computed.observe(done.input_tokens)
        self._preempted.observe(done.preemptions)
        self._e2e.observe((done.last_token_ms - done.arrival_ms) / 1000)
        self._queue.observe((done.start_ms - done.arrival_ms) / 1000)
        self._inference.observe((done.last_token_ms - done.start_ms) / 1000)
        self._prefill.observe((done.first_token_ms - done.start_ms) / 1000)
        decode_s = (done.last_token_ms - done.first_token_ms) / 1000
        self._decode.observe(decode_s)
        self._tpot.observe(decode_s / max(done.output_tokens - 1, 1))

    def reject(self, reason: str) -> None:
        """One request was rejected; one of REJECTION_REASONS."""
        self._rejections[reason].inc()

    def show(self, state: EngineState) -> None:
        """Gauges and counters of now."""
        self._running.set(state.running)
        self._waiting.set(state.waiting)
        self._capacity.set(state.waiting)
        self._kv_usage.set(state.kv_usage)
        self._raise(self._preemptions, "preemptions", state.preemptions)
        self._raise(self._prompt, "prompt", state.prompt_tokens_total)
        self._raise(self._cached, "cached", state.cached_tokens_total)
        self._raise(self._generation, "generation", state.generation_tokens_total)

    def _raise(self, counter: Counter, name: str, total: float) -> None:
        counter.inc(total - self._shown.get(name, 0.0))
        self._shown[name] = total
