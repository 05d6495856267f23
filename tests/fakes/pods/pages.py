"""Metrics pages of the pods of a world in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from adapter.clock import Clock

SPEED = 10.0
MODEL = "default/default"


class Pages:
    """Metrics pages of vLLM servers, one per pod.

    Attributes:
        load: requests per minute by workload name, spread over its pods.
        shared: requests per minute by names of workloads that share them, spread evenly over all their pods.
        finished: requests by pod; a pod that is not in it does not answer.
        odd: pages of pods that are served as they are.
        port: once they are served.
        itl_ms: inter-token latency that each request adds; 0 shows no latencies at all.

    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock(speed=SPEED)
        self.load: dict[str, float] = {}
        self.shared: dict[tuple[str, ...], float] = {}
        self.finished: dict[str, float] = {}
        self.odd: dict[str, str] = {}
        self.port = 0
        self.itl_ms = 0.0
        self._latencies: dict[str, float] = {}
        self._advanced_at = self._clock.monotonic()

    @contextlib.asynccontextmanager
    async def served(self, **others: Any) -> AsyncIterator[None]:
        """Serve `/pods/POD`, and other handlers under their names, until the context ends."""
        application = web.Application()
        application.router.add_get("/pods/{pod}", self._page)
        for name, handler in others.items():
            application.router.add_get(f"/{name}", handler)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await runner.cleanup()

    def _advance(self) -> None:
        now = self._clock.monotonic()
        if now - self._advanced_at < 0.1:
            return
        minutes = (now - self._advanced_at) / 60
        self._advanced_at = now
        pods: dict[str, list[str]] = {}
        for pod in self.finished:
            pods.setdefault(pod.rpartition("-")[0], []).append(pod)
        offered = [(rate, pods.get(name, [])) for name, rate in self.load.items()]
        for names, rate in self.shared.items():
            offered.append((rate, [pod for name in names for pod in pods.get(name, ())]))
        for rate, served_by in offered:
            for pod in served_by:
                done = rate * minutes / len(served_by)
                self.finished[pod] += done
                self._latencies[pod] = self._latencies.get(pod, 0.0) + done * self.itl_ms

    async def _page(self, request: web.Request) -> web.Response:
        self._advance()
        if request.match_info["pod"] in self.odd:
            text = self.odd[request.match_info["pod"]]
            return web.Response(body=text.encode(errors="surrogatepass"), content_type="text/plain")
        done = self.finished.get(request.match_info["pod"])
        if done is None:
            raise web.HTTPNotFound
        label = f'{{model_name="{MODEL}"}}'
        return web.Response(
            text=f"vllm:num_requests_running{label} 0\n"
            f"vllm:num_requests_waiting{label} 0\n"
            f"vllm:request_success_total{label} {done}\n"
            f"vllm:request_generation_tokens_sum{label} {178 * done}\n"
            f"vllm:request_generation_tokens_count{label} {done}\n"
            + self._latency(request.match_info["pod"], label, done)
        )

    def _latency(self, pod: str, label: str, done: float) -> str:
        if not self.itl_ms:
            return ""
        itl = self._latencies.get(pod, 0.0) / 1000.0
        return (
            f"vllm:request_prompt_tokens_sum{label} {100 * done}\n"
            f"vllm:request_prompt_tokens_count{label} {done}\n"
            f"vllm:inter_token_latency_seconds_sum{label} {177 * itl}\n"
            f"vllm:inter_token_latency_seconds_count{label} {177 * done}\n"
        )


class Starts:
    """Pods that start, or that no node takes.

    Attributes:
        unplaced: names of workloads for whose new pods the scheduler finds no node.
        startup: seconds of the clock until a new pod is ready, by name of its workload; the others at once.
        coming: since when each pod (namespace, workload, name) starts.

    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.unplaced: set[str] = set()
        self.startup: dict[str, float] = {}
        self.coming: dict[tuple[str, str, str], float] = {}

    def begin(self, namespace: str, workload: str, pod: str) -> dict[str, Any] | None:
        """A pod was made; its status until it is ready, None where it is ready at once."""
        self.coming[namespace, workload, pod] = self._clock.monotonic()
        scheduled = {"type": "PodScheduled", "status": "True"}
        if workload in self.unplaced:
            scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        elif not self.startup.get(workload):
            return None
        return {"phase": "Pending", "conditions": [scheduled]}

    def due(self) -> list[tuple[str, str, str]]:
        """Pods that are ready now; each is given once."""
        now, ready = self._clock.monotonic(), []
        for key, since in list(self.coming.items()):
            if key[1] in self.unplaced:
                self.coming[key] = now
            elif now - since >= self.startup.get(key[1], 0.0):
                del self.coming[key]
                ready.append(key)
        return ready
