"""What is behind the HTTP of an emulated vLLM server: the engine that schedules as vLLM, and its page."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import generate_latest

from emulator.engine import Request
from emulator.engines.live import LiveSchedulerEngine
from emulator.engines.step_times import SchedulerLimits, StepTimes
from emulator.vllm_metrics import SchedulerMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerProfile:
    """One server's engine; ValueError for a negative limit.

    Attributes:
        max_num_queued_reqs: most requests that wait or run; others get status 503. None: no limit.
        max_num_queued_tokens: prompt tokens of requests without a token from which on others get status 503.
            None: no limit.

    """

    times: StepTimes
    limits: SchedulerLimits
    max_num_queued_reqs: int | None = None
    max_num_queued_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_num_queued_reqs", "max_num_queued_tokens"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}: must be >= 0, not {value}")


class SchedulerBackend:
    """The engine, its metrics and its admission limits."""

    def __init__(self, *, model: str, profile: SchedulerProfile, speed: float) -> None:
        self.profile = profile
        self.metrics = SchedulerMetrics(model, profile.limits)
        self.engine = LiveSchedulerEngine(
            profile.times,
            profile.limits,
            speed=speed,
            on_token=self.metrics.token,
            on_finish=self.metrics.finish,
        )

    def rejection(self) -> str | None:
        """The limit that forbids one request more, which counts as rejected; None when none does."""
        requests, tokens = self.profile.max_num_queued_reqs, self.profile.max_num_queued_tokens
        reason = None
        if requests is not None and self.engine.unfinished + 1 > requests:
            reason = "max_num_queued_reqs"
        elif tokens is not None and self.engine.prompt_tokens_in_prefill >= tokens:
            reason = "max_num_queued_tokens"
        if reason is not None:
            self.metrics.reject(reason)
        return reason

    def submit(self, *, input_tokens: int, output_tokens: int) -> Request:
        """Queue a request; ValueError when it can never fit."""
        return self.engine.submit(input_tokens=input_tokens, output_tokens=output_tokens)

    def abort(self, request: Request) -> None:
        """Drop a request unless it has ended; it counts nowhere."""
        self.engine.abort(request)

    async def run(self) -> None:
        """Serve until cancelled."""
        await self.engine.run()

    def page(self) -> bytes:
        """The metrics of now in Prometheus' text format."""
        self.metrics.show(self.engine.state())
        return generate_latest(self.metrics.registry)
