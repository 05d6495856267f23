"""A load generator: requests at a scheduled rate, their latencies measured by streaming."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import aiohttp

RETRY_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A constant rate for a while; scenario seconds, requests per minute."""

    duration_seconds: float
    rate_rpm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One finished request; scenario time since the generator's start, itl 0 for a single token."""

    arrived_at_seconds: float
    finished_at_seconds: float
    ttft_ms: float
    itl_ms: float


def parse_schedule(text: str) -> tuple[Phase, ...]:
    """Phases of `[[120, 60], [120, 80]]`: seconds, requests per minute.

    Raises:
        ValueError: names the entry and what is wrong.

    """
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise ValueError(f"schedule: not JSON like [[120, 60], [120, 80]]: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError("schedule: must be a list of [seconds, requests per minute]")
    phases = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, list) or len(entry) != 2:
            raise ValueError(f"schedule[{index}]: must be [seconds, rate], not {entry!r}")
        duration, rate = entry
        if not _number(duration) or duration <= 0:
            raise ValueError(f"schedule[{index}]: seconds must be a number > 0, not {duration!r}")
        if not _number(rate) or rate < 0:
            raise ValueError(f"schedule[{index}]: rate must be a number >= 0, not {rate!r}")
        phases.append(Phase(duration_seconds=float(duration), rate_rpm=float(rate)))
    return tuple(phases)


class LoadGenerator:
    """Sends requests on schedule, whatever becomes of the earlier ones."""

    def __init__(
        self,
        *,
        model: str,
        phases: Sequence[Phase],
        input_tokens: int,
        output_tokens: int,
        speed: float,
        endpoints: Callable[[], Sequence[str]],
        arrivals: Literal["uniform", "poisson"] = "uniform",
        seed: int = 0,
    ) -> None:
        """`endpoints()` gives base URLs; the one with the fewest requests of ours is taken."""
        self._output_tokens = output_tokens
        self._body = {
            "model": model,
            "messages": [{"role": "user", "content": " ".join(["word"] * input_tokens)}],
            "max_tokens": output_tokens,
            "stream": True,
        }
        self._phases = phases
        self._speed = speed
        self._endpoints = endpoints
        self._arrivals = arrivals
        self._seed = seed
        self._outstanding: Counter[str] = Counter()
        self._began = 0.0
        self.rate_rpm = 0.0
        self.sent = 0
        self.failed = 0
        self.completed: list[Completion] = []

    def now(self) -> float:
        """Scenario seconds since `run` began."""
        return (asyncio.get_running_loop().time() - self._began) * self._speed

    async def run(self) -> None:
        """Follow the schedule, then wait for what is outstanding."""
        self._began = asyncio.get_running_loop().time()
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            for at, rate in self._arrival_times():
                await asyncio.sleep(max(at - self.now(), 0.0) / self._speed)
                self.rate_rpm = rate[0]
                if rate[1]:
                    self.sent += 1
                    group.create_task(self._request(session, at))
            self.rate_rpm = 0.0

    def _arrival_times(self) -> Iterator[tuple[float, tuple[float, bool]]]:
        """Times, each with the rate from then on and whether a request arrives."""
        drawn = random.Random(self._seed)  # noqa: S311 - load, not secrets
        start = 0.0
        for phase in self._phases:
            end = start + phase.duration_seconds
            yield start, (phase.rate_rpm, False)
            at = start
            while phase.rate_rpm:
                gap = 60.0 / phase.rate_rpm
                at += drawn.expovariate(1.0 / gap) if self._arrivals == "poisson" else gap
                if at >= end:
                    break
                yield at, (phase.rate_rpm, True)
            start = end
        yield start, (0.0, False)

    async def _request(self, session: aiohttp.ClientSession, arrived: float) -> None:
        while True:
            urls = list(self._endpoints())
            if urls:
                url = min(urls, key=lambda item: (self._outstanding[item], urls.index(item)))
                self._outstanding[url] += 1
                try:
                    self.completed.append(await self._once(session, url, arrived))
                except (aiohttp.ClientError, OSError):
                    self.failed += 1
                else:
                    return
                finally:
                    self._outstanding[url] -= 1
            await asyncio.sleep(RETRY_SECONDS / self._speed)

    async def _once(self, session: aiohttp.ClientSession, url: str, arrived: float) -> Completion:
        first: float | None = None
        last, tokens = arrived, 0
        async with session.post(f"{url}/v1/chat/completions", json=self._body) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: ") and b'"content"' in line:
                    last, tokens = self.now(), tokens + 1
                    first = last if first is None else first
        if first is None or tokens < self._output_tokens:
            raise aiohttp.ClientPayloadError("the stream ended early")
        return Completion(
            arrived_at_seconds=arrived,
            finished_at_seconds=last,
            ttft_ms=1000.0 * (first - arrived),
            itl_ms=1000.0 * (last - first) / (tokens - 1) if tokens > 1 else 0.0,
        )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
