"""Faults of the page of an endpoint picker before servers that work, scraped or in Prometheus."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapter.collector import gateway, promql
from adapter.collector.collector import Collector
from adapter.collector.instant_vector import Sample
from adapter.collector.pickers.loads import NO_LOAD, PoolLoad, merged
from adapter.collector.promql import GatewayCount
from adapter.collector.servers import lines
from adapter.controller.loop import ControlLoop
from emulator.demo.scenario import MODEL
from tests.adapter.controller.chaos_faults import PODS, SECONDS, Case, text_of
from tests.adapter.controller.chaos_servers import INPUT, PER_SECOND, RUNNING, VLLM, Page

_OF_MODEL = f'model_name="{MODEL}",target_model_name="{MODEL}"'
_FORWARDED = f"llm_d_epp_request_total{{{_OF_MODEL}}}"
_QUEUE = f'llm_d_epp_flow_control_queue_size{{inference_pool="p",{_OF_MODEL}}}'
_REJECTED = f'llm_d_epp_flow_control_requests_total{{outcome="RejectedCapacity",{_OF_MODEL}}}'
_SATURATION = 'llm_d_epp_flow_control_pool_saturation{inference_pool="p",stage="effective"}'
_REQUESTS, _TOKENS = (
    tuple(
        f'llm_d_epp_inflight_{what}{{endpoint_name="p-{pod}",producer_name="x"}}'
        for pod in range(PODS)
    )
    for what in ("requests", "tokens")
)

INPUTS: Mapping[str, tuple[str, ...]] = {
    "forwarded": (_FORWARDED,),
    "queue": (_QUEUE,),
    "rejected": (_REJECTED,),
    "requests in flight": _REQUESTS,
    "tokens in flight": _TOKENS,
    "saturation": (_SATURATION,),
}
_COUNTERS = (_FORWARDED, _REJECTED)


def steady_picker(seconds: float, *, began: float = 0.0) -> Page:
    """A picker after that time before pods under their load."""
    done = PODS * PER_SECOND * (seconds - began)
    return {
        _FORWARDED: done,
        _QUEUE: 0.0,
        _REJECTED: 0.0,
        _SATURATION: 0.4,
        **dict.fromkeys(_REQUESTS, RUNNING),
        **dict.fromkeys(_TOKENS, RUNNING * INPUT),
    }


PickerPage = Callable[[float, float], Page | None]


def _changed(names: Sequence[str], change: Callable[[float, float], float | None]) -> PickerPage:
    """Values changed by what they were when the fault began; None leaves the series out."""

    def page(at: float, since: float) -> Page:
        before = steady_picker(since)
        values = {}
        for name, value in steady_picker(at).items():
            changed = change(value, before[name]) if name in names else value
            if changed is not None:
                values[name] = changed
        return values

    return page


def _reset(names: Sequence[str]) -> PickerPage:
    """Counters that began anew."""

    def page(at: float, since: float) -> Page:
        fresh = steady_picker(at, began=since)
        return {**steady_picker(at), **{name: fresh[name] for name in names}}

    return page


def cases() -> Iterator[Case]:
    """All faults."""
    for what, names in INPUTS.items():
        counted = set(names) <= set(_COUNTERS)
        for fault, page in {
            "absent": _changed(names, lambda *_: None),
            "NaN": _changed(names, lambda *_: math.nan),
            "Inf": _changed(names, lambda *_: math.inf),
            "1e308": _changed(names, lambda *_: 1e308),
            "negative": _changed(names, lambda value, _: -value - 1.0),
            "stale": _changed(names, lambda _, before: before),
            "wrong unit": _changed(names, lambda value, _: 1000.0 * value),
            **(
                {
                    "jump": _changed(names, lambda value, _: value + 4000.0),
                    "fall": _changed(names, lambda value, before: value - 0.3 * before),
                }
                if counted
                else {"huge jump": _changed(names, lambda value, _: value + 1e6)}
            ),
        }.items():
            yield _case(fault, what, page)
        if counted:
            yield _case("reset", what, _reset(names), lasts=True)
    yield _case("restart", "", lambda at, since: steady_picker(at, began=since), lasts=True)
    yield _case("hung", "", lambda _, since: steady_picker(since))
    yield _case("no answer", "", lambda *_: None)
    yield _case("no series", "", lambda *_: {})
    yield _case(
        "every second answer", "", lambda at, _: None if at // SECONDS % 2 else steady_picker(at)
    )
    yield _case(
        "twice the pickers behind one address", "",
        lambda at, _: steady_picker(at + 4000.0 * (at // SECONDS % 2)),
    )  # fmt: skip


def _case(fault: str, what: str, picker: PickerPage, *, lasts: bool = False) -> Case:
    def page(at: float, _: float) -> Page:
        return VLLM.steady(at)

    return Case(fault=fault, what=what, pods=PODS, page=page, lasts=lasts, picker=picker)


class WithPickers(Collector):
    """A collector whose Prometheus has pickers."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.counted: tuple[GatewayCount, ...] = ()
        self.pools: PoolLoad = NO_LOAD

    @property
    def gateways(self) -> tuple[GatewayCount, ...]:
        return self.counted

    @property
    def pool_load(self) -> PoolLoad:
        return self.pools


class Pickers:
    """Pickers, one of each namespace, read as one of the sources does."""

    def __init__(self, session: aiohttp.ClientSession, origin: str) -> None:
        self._session, self._origin = session, origin
        self._pages: Mapping[str, Page | None] = {}
        self._readers: dict[str, gateway.Gateways] = {}
        app = web.Application()
        app.router.add_get("/{namespace}", self._serve)
        self._server = TestServer(app)

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def _serve(self, request: web.Request) -> web.Response:
        page = self._pages[request.match_info["namespace"]]
        if page is None:
            raise web.HTTPServiceUnavailable
        return web.Response(text=text_of(page, {}))

    async def read(
        self,
        loop: ControlLoop,
        collector: WithPickers,
        shown: Mapping[str, Page | None],
        *,
        now: float,
    ) -> None:
        """Give the loop what the pickers show now, by namespace."""
        self._pages = shown
        if self._origin == "prometheus":
            samples = [item for space, page in shown.items() for item in _samples(space, page, now)]
            collector.counted = tuple(promql.models(samples))
            collector.pools = promql.pool_load(samples, {MODEL}, None)
            return
        demands: dict[gateway.ModelKey, gateway.Demand] = {}
        loads = []
        for space in shown:
            reader = self._readers.get(space)
            if reader is None:
                url = str(self._server.make_url(f"/{space}"))
                reader = self._readers[space] = gateway.Gateways(self._session, [(space, url)])
            demands |= await reader.demand(loop.waking.window, now=now)
            loads.append(reader.load)
        loop.waking.use(demands, merged(loads))


_QUANTITIES = {
    "llm_d_epp_request_total": "requests",
    "llm_d_epp_flow_control_queue_size": "waiting",
    "llm_d_epp_flow_control_requests_total": "rejected",
    "llm_d_epp_inflight_requests": "in flight",
    "llm_d_epp_inflight_tokens": "tokens in flight",
    "llm_d_epp_flow_control_pool_saturation": "saturation",
}


class _All:
    def __contains__(self, name: object) -> bool:
        return True


def _samples(namespace: str, page: Page | None, now: float) -> Iterator[Sample]:
    """A picker's page as the answer to the query for gateways."""
    for name, labels, value in lines.read(text_of(page or {}, {}), _All()):
        yield Sample({**labels, "namespace": namespace, "quantity": _QUANTITIES[name]}, value, now)
