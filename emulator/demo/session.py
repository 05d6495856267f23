"""One run of the demo: emulated vLLM servers, load, adapter and HPA, and what they did."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.live import Live
from rich.table import Table

from adapter.app import serving
from adapter.app.endpoints import Endpoints
from adapter.app.options import ServeOptions
from adapter.auth import local as local_auth
from adapter.clock import Clock
from adapter.collector.collector import CollectionSettings
from adapter.controller.demand import RateSettings
from adapter.controller.settings import LoopSettings
from emulator import hpa, load
from emulator.demo import deployment, scenario, timeline
from optimizer.stabilization import StabilizationLimits

SYNC_SECONDS = 5.0
SAMPLE_SECONDS = 2.0
MAX_REPLICAS = 10
METRIC_PATH = (
    f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{scenario.NAMESPACE}"
    f"/inferno_desired_replicas?labelSelector=variant_name%3D{scenario.NAME}"
)
COLUMNS = (
    "variant", "model", "acc", "offered/min", "seen/min", "TTFT ms", "ITL ms", "current", "optimized",
    "cents/h", "why",
)  # fmt: skip
LOOP = LoopSettings(
    interval=10.0,
    collection=CollectionSettings(interval=2.5, window=30.0, long_window=60.0),
    # An emulated server starts at once: there is nothing to foresee.
    rates=RateSettings(startup_seconds=1.0, anticipate=False),
    limits=StabilizationLimits(down_seconds=5.0),
    time_to_live=120.0,
)


@dataclass(kw_only=True)
class Demo:
    """One run of the demo.

    Attributes:
        args: Arguments of the command.
        phases: Load schedule.
        duration: Scenario seconds to run.
        work: Folder of manifests and certificates, deleted by the caller.
        console: Console to print to.

    """

    args: argparse.Namespace
    phases: tuple[load.Phase, ...]
    duration: float
    work: Path
    console: Console

    def __post_init__(self) -> None:
        """Create the state that the tasks share."""
        self.clock = Clock(speed=self.args.speed)
        self.rows: list[timeline.Row] = []
        self.spent_cents = 0.0
        self.hpa_reason = ""
        self.interrupted = False
        self.generator = load.LoadGenerator(
            model=scenario.MODEL,
            phases=self.phases,
            input_tokens=scenario.INPUT_TOKENS,
            output_tokens=scenario.OUTPUT_TOKENS,
            speed=self.args.speed,
            arrivals=self.args.arrivals,
            seed=self.args.seed,
            endpoints=lambda: self.servers.urls,
        )
        self.objects = self.work / "variants"
        self.servers = deployment.ReplicaSet(
            speed=self.args.speed,
            changed=lambda urls: scenario.write_deployment(self.objects, urls, len(urls)),
        )

    async def run(self) -> None:
        """Start all parts, wait for the end or an interrupt, stop all parts."""
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._interrupt, stop)
        scenario.write_objects(self.objects)
        options = ServeOptions(
            variants=self.objects,
            host="127.0.0.1",
            port=self.args.port,
            certificates=local_auth.Files(state=self.work / "state"),
            loop=LOOP,
            interval=LOOP.interval,
            metrics_port=0,
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.servers.close)
            await self.servers.scale(1)
            running = await stack.enter_async_context(serving.serving(options, clock=self.clock))
            self._commands(running)
            self.started = self.clock.monotonic()
            jobs = (self.generator.run(), self._scale(running), self._sample(running))
            tasks = [asyncio.create_task(job) for job in jobs]
            stack.push_async_callback(_cancel, tasks)
            stopped = asyncio.create_task(stop.wait())
            end = asyncio.create_task(self.clock.sleep(self.duration))
            stack.push_async_callback(_cancel, [stopped, end])
            async with self._view(running):
                pending = {stopped, end, *tasks[1:]}
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _interrupt(self, stop: asyncio.Event) -> None:
        self.interrupted = True
        stop.set()

    def _commands(self, running: Endpoints) -> None:
        state = self.work / "state"
        self._print(f"Page of the fleet: {running.metrics_url}/ui")
        self.console.print("While this runs, from another terminal:")
        for line in (
            f"  kubectl --kubeconfig {running.kubeconfig} get --raw '{METRIC_PATH}'",
            (
                f"  curl --cacert {running.ca_file} --cert {state}/client.crt"
                f" --key {state}/client.key '{running.url}{METRIC_PATH}'"
            ),
        ):
            self._print(line)

    async def _scale(self, running: Endpoints) -> None:
        """Run the HPA: read the metric over HTTPS and set the replicas."""
        context = ssl.create_default_context(cafile=running.ca_file)
        state = self.work / "state"
        context.load_cert_chain(state / "client.crt", state / "client.key")
        autoscaler = hpa.HorizontalPodAutoscaler(
            min_replicas=1,
            max_replicas=MAX_REPLICAS,
            stabilization_up_seconds=0,
            stabilization_down_seconds=10,
            tolerance_up=0,
            tolerance_down=0,
        )
        async with aiohttp.ClientSession() as session:
            while True:
                await self.clock.sleep(SYNC_SECONDS)
                items: Sequence[str] | None
                try:
                    url = running.url + METRIC_PATH
                    items = await hpa.read_metric(session, url, context)
                except hpa.MetricUnavailable:
                    items = None
                decision = autoscaler.step(
                    now_seconds=self.clock.monotonic(),
                    items=items,
                    spec_replicas=self.servers.spec_replicas,
                    ready_replicas=len(self.servers.urls),
                )
                self.hpa_reason = decision.message
                if decision.replicas != self.servers.spec_replicas:
                    if self.args.no_tui:
                        elapsed = self.clock.monotonic() - self.started
                        self.console.print(
                            f"{elapsed:6.0f} s  HPA: {self.servers.spec_replicas} ->"
                            f" {decision.replicas} replicas"
                        )
                    await self.servers.scale(decision.replicas)

    async def _sample(self, running: Endpoints) -> None:
        due = self.clock.monotonic()
        while True:
            due += SAMPLE_SECONDS
            await self.clock.sleep(due - self.clock.monotonic())
            current = len(self.servers.urls)
            self.spent_cents += current * scenario.UNIT_COST * SAMPLE_SECONDS / 3600
            for state in running.loop.states.values():
                traffic = state.traffic
                self.rows.append(
                    timeline.Row(
                        time_s=due - self.started,
                        variant=state.source.name,
                        arrival_rate_rpm=self.generator.rate_rpm,
                        desired_replicas=state.desired,
                        current_replicas=current,
                        ttft_ms=traffic.ttft_ms if traffic else None,
                        itl_ms=traffic.itl_ms if traffic else None,
                        cost_cents=self.spent_cents,
                    )
                )

    @contextlib.asynccontextmanager
    async def _view(self, running: Endpoints) -> AsyncIterator[None]:
        if self.args.no_tui or not self.console.is_terminal:
            task = asyncio.create_task(self._lines())
            try:
                yield
            finally:
                await _cancel([task])
            return
        with Live(console=self.console, get_renderable=lambda: self._table(running)):
            yield

    async def _lines(self) -> None:
        while True:
            await self.clock.sleep(max(self.duration / 12, SYNC_SECONDS))
            if self.rows:
                self._print(timeline.line(self.rows[-1]))

    def _table(self, running: Endpoints) -> Table:
        elapsed = min(self.clock.monotonic() - self.started, self.duration)
        table = Table(title=f"variant-adapter demo  {elapsed:.0f} of {self.duration:.0f} s")
        for name in COLUMNS:
            table.add_column(name)
        for state in running.loop.states.values():
            traffic, targets = state.traffic, state.source.targets
            rate = traffic.arrival_rate_rps * 60 if traffic else None
            table.add_row(
                state.source.name,
                state.source.model,
                state.accelerator,
                f"{self.generator.rate_rpm:.0f}",
                timeline.number(rate),
                _against(traffic.ttft_ms if traffic else None, targets.ttft_ms),
                _against(traffic.itl_ms if traffic else None, targets.itl_ms),
                str(len(self.servers.urls)),
                "-" if state.desired is None else str(state.desired),
                f"{len(self.servers.urls) * scenario.UNIT_COST:.0f}",
                state.problem or state.reason,
            )
        return table

    def report(self) -> None:
        """Print the changes of the timeline and write its files."""
        if not self.rows:
            self.console.print("ended before the first sample")
            return
        for row in timeline.changes(self.rows):
            self._print(timeline.line(row))
        completed = self.generator.completed
        ttft_ok = sum(item.ttft_ms <= scenario.SLO_TTFT_MS for item in completed)
        itl_ok = sum(item.itl_ms <= scenario.SLO_ITL_MS for item in completed)
        if completed:
            self.console.print(
                f"SLO attainment of {len(completed)} requests:"
                f" TTFT <= {scenario.SLO_TTFT_MS:g} ms {ttft_ok / len(completed):.1%},"
                f" ITL <= {scenario.SLO_ITL_MS:g} ms {itl_ok / len(completed):.1%}"
            )
        self.console.print(f"cost: {self.spent_cents:.2f} cents")
        csv_path, png_path = self.args.out / "timeline.csv", self.args.out / "timeline.png"
        timeline.write_csv(self.rows, csv_path)
        drawn = timeline.write_png(
            self.rows, png_path, slo_ttft_ms=scenario.SLO_TTFT_MS, slo_itl_ms=scenario.SLO_ITL_MS
        )
        self.console.print(f"written: {csv_path}" + (f", {png_path}" if drawn else ""))
        if self.interrupted:
            self.console.print("interrupted: all servers were stopped")


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _against(value: float | None, target: float) -> str:
    if value is None:
        return f"- / {target:g}"
    colour = "red" if target and value > target else "green"
    return f"[{colour}]{value:.1f}[/] / {target:g}"
