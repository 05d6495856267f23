"""An emulated vLLM server: OpenAI's API and vLLM's metrics without a GPU (`python -m emulator.vllm`)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from emulator import vllm_options
from emulator.engine import Engine, EngineProfile, Request
from emulator.engines.backend import SchedulerBackend, SchedulerProfile
from emulator.vllm_metrics import ITL_BUCKETS, REQUEST_BUCKETS, TTFT_BUCKETS

DEFAULT_OUTPUT_TOKENS = 128
PARENT_POLL_SECONDS = 0.5
_TOKEN_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


class Metrics:
    """The time series of a vLLM server; latencies in scenario seconds."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        names, values = ("model_name", "engine"), (model, "0")

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"vllm:{name}", text, names, registry=self.registry).labels(*values)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"vllm:{name}", text, names, registry=self.registry).labels(*values)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
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
        tokens, spans = _TOKEN_BUCKETS, REQUEST_BUCKETS
        self.request_prompt = histogram("request_prompt_tokens", "Per request.", tokens)
        self.request_generation = histogram("request_generation_tokens", "Per request.", tokens)
        self.ttft = histogram("time_to_first_token_seconds", "TTFT.", TTFT_BUCKETS)
        self.itl = histogram("inter_token_latency_seconds", "ITL.", ITL_BUCKETS)
        self.tpot = histogram("time_per_output_token_seconds", "ITL, older name.", ITL_BUCKETS)
        self.latency = histogram("e2e_request_latency_seconds", "Whole request.", spans)
        self.queue = histogram("request_queue_time_seconds", "Waiting.", spans)

    def token(self, request: Request, gap_ms: float) -> None:
        """Count one generated token."""
        self.generation.inc()
        if request.generated == 0:
            self.ttft.observe(gap_ms / 1000)
            self.prompt.inc(request.input_tokens)
            self.queue.observe(max((request.admitted_ms or 0) - request.arrived_ms, 0) / 1000)
        else:
            self.itl.observe(gap_ms / 1000)
            self.tpot.observe(gap_ms / 1000)

    def finish(self, request: Request) -> None:
        """Count one finished request."""
        self.finished.inc()
        self.request_prompt.observe(request.input_tokens)
        self.request_generation.observe(request.output_tokens)
        self.latency.observe(((request.last_token_ms or 0) - request.arrived_ms) / 1000)


class _BadRequestError(ValueError):
    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ProfileBackend:
    """The engine of a performance profile, and its metrics."""

    def __init__(self, *, model: str, profile: EngineProfile, speed: float) -> None:
        self.metrics = Metrics(model)
        self.engine = Engine(
            profile, speed=speed, on_token=self.metrics.token, on_finish=self.metrics.finish
        )

    def rejection(self) -> str | None:
        """It has no admission limits."""
        return None

    def submit(self, *, input_tokens: int, output_tokens: int) -> Request:
        """Queue a request."""
        return self.engine.submit(input_tokens=input_tokens, output_tokens=output_tokens)

    def abort(self, request: Request) -> None:
        """Drop a request unless it has ended."""
        if self.engine.abort(request):
            self.metrics.aborted.inc()

    async def run(self) -> None:
        """Serve until cancelled."""
        await self.engine.run()

    def page(self) -> bytes:
        """The metrics of now in Prometheus' text format."""
        engine, metrics = self.engine, self.metrics
        metrics.running.set(len(engine.running))
        metrics.waiting.set(len(engine.waiting))
        metrics.kv_cache.set(len(engine.running) / engine.profile.max_batch)
        return generate_latest(metrics.registry)


class Server:
    """HTTP server of one engine."""

    def __init__(
        self, *, model: str, profile: EngineProfile | SchedulerProfile, speed: float
    ) -> None:
        self.model = model
        self.backend: ProfileBackend | SchedulerBackend
        if isinstance(profile, SchedulerProfile):
            self.backend = SchedulerBackend(model=model, profile=profile, speed=speed)
        else:
            self.backend = ProfileBackend(model=model, profile=profile, speed=speed)

    def application(self) -> web.Application:
        """Application with the routes of a vLLM server that clients use."""
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.page)
        app.cleanup_ctx.append(self._engine_task)
        return app

    async def _engine_task(self, _: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self.backend.run(), name="engine")
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def health(self, _: web.Request) -> web.Response:
        """Serve GET /health: an empty 200, as vLLM does."""
        return web.Response()

    async def models(self, _: web.Request) -> web.Response:
        """Serve GET /v1/models: the one model."""
        return web.json_response(
            {"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": "vllm"}]}
        )

    async def page(self, _: web.Request) -> web.Response:
        """Serve GET /metrics."""
        return web.Response(
            body=self.backend.page(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Serve POST /v1/chat/completions: a completion, whole or streamed."""
        try:
            body, words, max_tokens = self._parse(await request.text())
        except _BadRequestError as error:
            return _error(error.status, str(error))
        if (reason := self.backend.rejection()) is not None:
            return _error(503, f"The server is at its limit {reason}; try another instance.")
        try:
            work = self.backend.submit(input_tokens=words, output_tokens=max_tokens)
        except ValueError as error:
            return _error(400, str(error))
        try:
            if body.get("stream"):
                options = body.get("stream_options")
                usage = isinstance(options, dict) and options.get("include_usage") is True
                return await self._stream(request, work, usage=usage)
            for _ in range(work.output_tokens):
                await work.tokens.get()
            return web.json_response(self._whole(work))
        finally:
            self.backend.abort(work)  # the client disconnected, or the server stops

    def _parse(self, text: str) -> tuple[dict[str, Any], int, int]:
        """Body, prompt tokens and tokens to generate of a request."""
        try:
            body = json.loads(text)
        except ValueError as error:
            raise _BadRequestError("the body is not JSON") from error
        if not isinstance(body, dict):
            raise _BadRequestError("the body is not a JSON object")
        if body.get("model", self.model) != self.model:
            raise _BadRequestError(f"The model `{body['model']}` does not exist.", status=404)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _BadRequestError("messages: must be a list of at least one message")
        limits = (body.get(name) for name in ("max_completion_tokens", "max_tokens"))
        tokens = next((value for value in limits if value is not None), DEFAULT_OUTPUT_TOKENS)
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise _BadRequestError("max_tokens: must be a whole number >= 1")
        return body, sum(len(_text(message).split()) for message in messages), tokens

    def _whole(self, work: Request) -> dict[str, Any]:
        text = " ".join(["token"] * work.output_tokens)
        message = {"role": "assistant", "content": text}
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
            "usage": _usage(work),
        }

    async def _stream(
        self, request: web.Request, work: Request, *, usage: bool
    ) -> web.StreamResponse:
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
        last = {"index": 0, "delta": {}, "finish_reason": "length"}
        ends = [{**head, "choices": [last]}]
        if usage:
            ends.append({**head, "choices": [], "usage": _usage(work)})
        with contextlib.suppress(ConnectionResetError):  # the client disconnected
            for _ in range(work.output_tokens):
                await work.tokens.get()
                await response.write(chunk)
            for end in ends:
                await response.write(b"data: " + json.dumps(end).encode() + b"\n\n")
            await response.write(b"data: [DONE]\n\n")
        return response


def _usage(work: Request) -> dict[str, int]:
    return {
        "prompt_tokens": work.input_tokens,
        "completion_tokens": work.output_tokens,
        "total_tokens": work.input_tokens + work.output_tokens,
    }


def _text(message: Any) -> str:
    """Text of a message, whose content is a string or a list of parts."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return " ".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _error(status: int, message: str) -> web.Response:
    kind = {404: "NotFoundError", 503: "ServiceUnavailableError"}.get(status, "BadRequestError")
    body = {"object": "error", "message": message, "type": kind, "code": status}
    return web.json_response({"error": body, **body}, status=status)


async def serve(
    args: argparse.Namespace, profile: EngineProfile | SchedulerProfile, parent: int
) -> None:
    """Serve until SIGTERM, SIGINT, or the end of the process with the id `parent`."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    watch = asyncio.create_task(_watch(parent, stop), name="watch the parent")
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), args.start_delay / args.speed)
        if not stop.is_set():
            await _listen(args, profile, stop)
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def _watch(parent: int, stop: asyncio.Event) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - no event signals the end of a parent
        await asyncio.sleep(PARENT_POLL_SECONDS)
    stop.set()


async def _listen(
    args: argparse.Namespace, profile: EngineProfile | SchedulerProfile, stop: asyncio.Event
) -> None:
    server = Server(model=args.model, profile=profile, speed=args.speed)
    runner = web.AppRunner(
        server.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, args.host, args.port).start()
        port = runner.addresses[0][1]
        print(f"listening on http://{args.host}:{port}", flush=True)  # noqa: T201
        if args.port_file is not None:
            _write_atomically(args.port_file, f"{port}\n")
        await stop.wait()
    finally:
        await runner.cleanup()


def _write_atomically(path: Path, text: str) -> None:
    """Write a file atomically."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def main() -> None:
    """Run one server."""
    parser = vllm_options.parser()
    parent = os.getppid()
    args = parser.parse_args()
    if not (math.isfinite(args.speed) and args.speed > 0):
        parser.error(f"--speed: must be a number > 0, not {args.speed}")
    try:
        profile = vllm_options.profile_of(args)
    except ValueError as error:
        parser.error(str(error))
    try:
        asyncio.run(serve(args, profile, parent))
    except OSError as error:
        parser.exit(1, f"{parser.prog}: cannot serve: {error}\n")


if __name__ == "__main__":
    main()
