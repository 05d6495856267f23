"""An emulated vLLM server: OpenAI's API, vLLM's metrics, and no GPU. `python -m emulator.vllm --help`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from emulator.engine import Engine, EngineProfile, Request

DEFAULT_OUTPUT_TOKENS = 128
_TOKEN_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_SECONDS_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10)


class Metrics:
    """vLLM's series; latencies in scenario seconds."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        names, values = ("model_name", "engine"), (model, "0")

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"vllm:{name}", text, names, registry=self.registry).labels(*values)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"vllm:{name}", text, names, registry=self.registry).labels(*values)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(
                f"vllm:{name}", text, names, buckets=buckets, registry=self.registry
            ).labels(*values)

        self.running = gauge("num_requests_running", "Requests in service.")
        self.waiting = gauge("num_requests_waiting", "Requests waiting.")
        self.kv_cache = gauge("kv_cache_usage_perc", "KV-cache usage; 1 means full.")
        finished = Counter(
            "vllm:request_success",
            "Requests ended.",
            (*names, "finished_reason"),
            registry=self.registry,
        )
        self.finished = finished.labels(*values, "length")
        self.aborted = finished.labels(*values, "abort")
        self.prompt = counter("prompt_tokens", "Prefill tokens.")
        self.generation = counter("generation_tokens", "Generated tokens.")
        tokens, spans = _TOKEN_BUCKETS, _SECONDS_BUCKETS
        self.request_prompt = histogram("request_prompt_tokens", "Per request.", tokens)
        self.request_generation = histogram("request_generation_tokens", "Per request.", tokens)
        self.ttft = histogram("time_to_first_token_seconds", "TTFT.", spans)
        self.itl = histogram("inter_token_latency_seconds", "ITL.", spans)
        self.tpot = histogram("time_per_output_token_seconds", "ITL, older name.", spans)
        self.latency = histogram("e2e_request_latency_seconds", "Whole request.", spans)
        self.queue = histogram("request_queue_time_seconds", "Waiting.", spans)

    def token(self, request: Request, gap_ms: float) -> None:
        """One token was generated."""
        self.generation.inc()
        if request.generated == 0:
            self.ttft.observe(gap_ms / 1000)
            self.prompt.inc(request.input_tokens)
            self.queue.observe(max((request.admitted_ms or 0) - request.arrived_ms, 0) / 1000)
        else:
            self.itl.observe(gap_ms / 1000)
            self.tpot.observe(gap_ms / 1000)

    def finish(self, request: Request) -> None:
        """One request ended well."""
        self.finished.inc()
        self.request_prompt.observe(request.input_tokens)
        self.request_generation.observe(request.output_tokens)
        self.latency.observe(((request.last_token_ms or 0) - request.arrived_ms) / 1000)


class Server:
    """HTTP around one engine."""

    def __init__(self, *, model: str, profile: EngineProfile, speed: float) -> None:
        self.model = model
        self.metrics = Metrics(model)
        self.engine = Engine(
            profile, speed=speed, on_token=self.metrics.token, on_finish=self.metrics.finish
        )

    def application(self) -> web.Application:
        """The routes of a vLLM server that clients use."""
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.page)
        app.cleanup_ctx.append(self._engine_task)
        return app

    async def _engine_task(self, _: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self.engine.run(), name="engine")
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def health(self, _: web.Request) -> web.Response:
        """As vLLM: empty 200."""
        return web.Response()

    async def models(self, _: web.Request) -> web.Response:
        """The one model."""
        return web.json_response(
            {"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": "vllm"}]}
        )

    async def page(self, _: web.Request) -> web.Response:
        """The metrics page."""
        engine, metrics = self.engine, self.metrics
        metrics.running.set(len(engine.running))
        metrics.waiting.set(len(engine.waiting))
        metrics.kv_cache.set(len(engine.running) / engine.profile.max_batch)
        return web.Response(
            body=generate_latest(metrics.registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """One completion, whole or streamed."""
        try:
            body = await request.json()
        except ValueError:
            return _error(400, "the body is not JSON")
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            return _error(400, "messages: must be a list")
        if body.get("model", self.model) != self.model:
            return _error(404, f"The model `{body['model']}` does not exist.")
        wanted = body.get("max_completion_tokens", body.get("max_tokens", DEFAULT_OUTPUT_TOKENS))
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
            return _error(400, "max_tokens: must be a whole number >= 1")
        words = sum(len(str(_content(message)).split()) for message in body["messages"])
        work = self.engine.submit(input_tokens=words, output_tokens=wanted)
        finished = False
        try:
            if body.get("stream"):
                response: web.StreamResponse = await self._stream(request, work)
            else:
                for _ in range(work.output_tokens):
                    await work.tokens.get()
                response = web.json_response(self._whole(work))
            finished = True
            return response
        finally:
            if not finished and work.generated < work.output_tokens:
                self.engine.abort(work)
                self.metrics.aborted.inc()

    def _whole(self, work: Request) -> dict[str, Any]:
        usage = {
            "prompt_tokens": work.input_tokens,
            "completion_tokens": work.output_tokens,
            "total_tokens": work.input_tokens + work.output_tokens,
        }
        text = " ".join(["token"] * work.output_tokens)
        message = {"role": "assistant", "content": text}
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
            "usage": usage,
        }

    async def _stream(self, request: web.Request, work: Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self.model,
        }
        delta = {"index": 0, "delta": {"content": "token "}, "finish_reason": None}
        chunk = b"data: " + json.dumps({**head, "choices": [delta]}).encode() + b"\n\n"
        for _ in range(work.output_tokens):
            await work.tokens.get()
            await response.write(chunk)
        last = {"index": 0, "delta": {}, "finish_reason": "length"}
        end = json.dumps({**head, "choices": [last]}).encode()
        await response.write(b"data: " + end + b"\n\ndata: [DONE]\n\n")
        return response


def _content(message: Any) -> Any:
    return message.get("content", "") if isinstance(message, dict) else ""


def _error(status: int, message: str) -> web.Response:
    body = {"object": "error", "message": message, "type": "BadRequestError", "code": status}
    return web.json_response({"error": body, **body}, status=status)


async def serve(args: argparse.Namespace) -> None:
    """Serve until SIGTERM, SIGINT, or the end of the parent process."""
    profile = EngineProfile(
        alpha_ms=args.alpha,
        beta_ms=args.beta,
        gamma_ms=args.gamma,
        delta_ms=args.delta,
        max_batch=args.max_batch,
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await asyncio.sleep(args.start_delay / args.speed)
    server = Server(model=args.model, profile=profile, speed=args.speed)
    runner = web.AppRunner(
        server.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    await web.TCPSite(runner, args.host, args.port).start()
    print(f"listening on http://{args.host}:{runner.addresses[0][1]}", flush=True)  # noqa: T201
    parent = os.getppid()
    while not stop.is_set() and os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1.0)
    await runner.cleanup()


def main() -> None:
    """Run one server."""
    parser = argparse.ArgumentParser(prog="emulator.vllm", description="An emulated vLLM server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free one")
    parser.add_argument("--model", default="default/default")
    parser.add_argument("--alpha", type=float, default=20.58, help="ms")
    parser.add_argument("--beta", type=float, default=0.41, help="ms per request in the batch")
    parser.add_argument("--gamma", type=float, default=0.0, help="ms")
    parser.add_argument("--delta", type=float, default=0.0, help="ms per token and request")
    parser.add_argument("--max-batch", type=int, default=4)
    parser.add_argument("--speed", type=float, default=1.0, help="scenario seconds per second")
    parser.add_argument("--start-delay", type=float, default=0.0, help="scenario seconds")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
