"""The page docs/metrics.md: every metric that the adapter exposes and reads, taken from the code itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import aiohttp
from prometheus_client.core import Metric

from adapter.apiserver import handlers
from adapter.apiserver.probes import Probes
from adapter.app.endpoints import registry_of
from adapter.auth import authentication, authorization
from adapter.clock import Clock
from adapter.collector import model_servers
from adapter.collector.collector import Collector
from adapter.collector.pickers import loads, pages
from adapter.collector.promql import GATEWAY_OUTCOMES, GATEWAY_QUEUES, GATEWAY_REQUESTS
from adapter.controller.loop import ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.store import OWN_METRICS, TargetStore

_HEAD = """# Metrics

Written by `scripts/generate_docs.py` from the code; a test fails when this page is stale.

## Served as external metrics

`external.metrics.k8s.io/v1beta1` serves, for every variant with a valid target, under the names of the
workload-variant-autoscaler, old and new:

"""

_EXPOSED = """
Labels: `variant_name`, `namespace`, `exported_namespace`, `accelerator_type`, `model_name`.

## Exposed to Prometheus

At `/metrics` of the API port (authenticated) and of the metrics port. Only the leader exposes the series of
variants, so that sums over replicas count each variant once.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
"""

_READ = """
## Read from model servers

From the pods' own pages, or from Prometheus. Of several names in a row the first that a pod has counts;
names joined by + are added. Spellings of these names, and the series of servers other than vLLM and SGLang,
are in [collection.md](collection.md#what-is-read).

| quantity | series |
| --- | --- |
"""

_GATEWAYS = """
## Read from inference gateways

| quantity | series, newest name first |
| --- | --- |
"""


def exposed() -> list[Metric]:
    """Families of metrics of a process that has no variant yet, by name."""
    return asyncio.run(_exposed())


def text() -> str:
    """The page."""
    served = "\n".join(f"- `{name}`" for name in sorted(OWN_METRICS))
    families = "\n".join(_row(family) for family in exposed())
    quantities = (*model_servers.QUANTITIES, *model_servers.ENGINE_QUANTITIES)
    rows = [(item.name, "; ".join(_names(item.names))) for item in quantities]
    cached = (f"`{part}` of `{whole}`" for part, whole in model_servers.CACHED_OF_PROMPTS)
    rows += [
        ("cached_tokens", "; ".join(cached)),
        *(
            (f"{name}, from Prometheus {seldom}", "; ".join(f"`{item}`" for item in names))
            for name, seldom, names in (
                ("input_moments", "every 5 minutes", model_servers.INPUT_BUCKETS),
                ("output_moments", "every 5 minutes", model_servers.OUTPUT_BUCKETS),
                ("ttft_buckets", "once a minute", model_servers.TTFT_BUCKETS),
                ("itl_buckets", "once a minute", model_servers.ITL_BUCKETS),
            )
        ),
    ]
    series = "\n".join(f"| {name} | {names} |" for name, names in rows)
    gateways = "\n".join(
        f"| {name} | {', '.join(f'`{item}`' for item in names)} |"
        for name, names in (
            ("requests", GATEWAY_REQUESTS),
            ("queue", GATEWAY_QUEUES),
            ("turned away, by outcome", GATEWAY_OUTCOMES),
            ("requests in flight, by endpoint", loads.REQUESTS),
            ("tokens in flight, by endpoint", loads.TOKENS),
            ("saturation of the pool", loads.SATURATIONS),
            ("requests that ended, of gateways without a picker", pages.LLM_GATEWAY_REQUESTS),
        )
    )
    return f"{_HEAD}{served}\n{_EXPOSED}{families}\n{_READ}{series}\n{_GATEWAYS}{gateways}\n"


def _names(rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [" + ".join(f"`{name}`" for name in names) for names in rows]


def _row(family: Metric) -> str:
    labels = getattr(family, "_labelnames", ())
    shown = ", ".join(f"`{label}`" for label in labels)
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return f"| `{name}` | {family.type} | {shown} | {family.documentation} |"


async def _exposed() -> list[Metric]:
    async def no_plan(_: fleet.Fleet) -> planning.Plan:
        return planning.Plan(decisions={})

    clock, settings = Clock(), LoopSettings()
    async with aiohttp.ClientSession() as session:
        collector = Collector(session=session, clock=clock, settings=settings.collection)
        store = TargetStore()
        loop = ControlLoop(
            collector=collector, store=store, clock=clock, planner=no_plan, settings=settings
        )
        probes = Probes(registry_of(loop, clock), {})
        handlers.application(
            provider=store,
            authenticator=authentication.Authenticator(authentication.IdentityConfig()),
            policy=authorization.LocalPolicy(),
            probes=probes,
        )
        collector.close()
        return sorted(probes.registry.collect(), key=lambda family: family.name)
