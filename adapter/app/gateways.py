"""Polls the gateways, more often while a variant is at zero: only they know of its requests then.

Each gateway is read on its own, so that one that does not answer delays no other.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace

import aiohttp
import structlog

from adapter.app.options import Installation
from adapter.clock import Clock
from adapter.collector import gateway
from adapter.collector.pickers.loads import Pod, PoolLoad, merged
from adapter.collector.pickers.pages import Known
from adapter.collector.transport.access import Access
from adapter.collector.transport.reading import PageReader
from adapter.controller.live.turns import in_turn
from adapter.controller.loop import ControlLoop
from adapter.resources.variant import VariantSource

log = structlog.get_logger()

AGAIN_SECONDS = 2.0
"""Real seconds after which a variant that was woken and is still at zero is woken again."""

WOKEN_AT_ONCE = 32
"""Variants that are woken together, of each namespace in turn: a request of another namespace does not
wait until the targets of thousands are written."""

_Endpoint = tuple[str, str]

PICKERS, QUICK_PICKERS = 32, 8
"""Gateways of one namespace that are read every `gateway_seconds`, and those that are every `wake_seconds`;
more of them share these readings."""

NOTICED_SECONDS, _SHARE = 0.005, 0.1
"""CPU seconds of one joining of what all gateways show, from which on it takes that share of the time."""


class GatewayWatch:
    """Reads the gateways, gives their demand to the loop, and wakes what shall start."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        installation: Installation,
        *,
        loop: ControlLoop,
        clock: Clock,
        wake: Callable[[frozenset[str]], Awaitable[None]],
        always: bool,
    ) -> None:
        """Make a watch; `run` starts it.

        Args:
            session: for the requests.
            installation: gateways, how to reach them, and how often.
            loop: control loop that the demand is for.
            clock: time between two readings.
            wake: starts variants at zero, by key.
            always: whether a follower reads too, while a variant is at zero.

        """
        self._session = session
        self._installation = installation
        self._loop = loop
        self._clock = clock
        self._wake = wake
        self._always = always
        self._reading = PageReader()
        self._known_by_inputs: tuple[object, Mapping[str, Known]] = (None, {})
        self._demand_by_endpoint: dict[_Endpoint, Mapping[gateway.ModelKey, gateway.Demand]] = {}
        self._loads: dict[_Endpoint, PoolLoad] = {}
        self._unread: dict[_Endpoint, str] = {}
        self._woken: dict[str, float] = {}
        self._unjoined: set[_Endpoint] = set()
        self._join_at = float("-inf")
        self._due = asyncio.Event()
        self._endpoints = tuple(dict.fromkeys(installation.gateways))
        self._numbers = Counter(namespace for namespace, _ in self._endpoints)
        self._changed = asyncio.Event()

    def use(self, discovered: Iterable[_Endpoint]) -> None:
        """Read these gateways from now on beside those that were configured, which count first."""
        configured = tuple(dict.fromkeys(self._installation.gateways))
        known = {url for _, url in configured}
        more = (item for item in dict.fromkeys(discovered) if item[1] not in known)
        endpoints = (*configured, *more)
        if endpoints != self._endpoints:
            self._endpoints = endpoints
            self._numbers = Counter(namespace for namespace, _ in endpoints)
            self._changed.set()

    async def run(self) -> None:
        """Read until cancelled."""
        readers: dict[_Endpoint, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wake_those_due(), name="wake variants")
            while True:
                self._changed.clear()
                for endpoint in readers.keys() - set(self._endpoints):
                    readers.pop(endpoint).cancel()
                    self._loads.pop(endpoint, None)
                    self._unread.pop(endpoint, None)
                    self._use(endpoint, {})
                    del self._demand_by_endpoint[endpoint]
                for endpoint in self._endpoints:
                    if endpoint not in readers:
                        name = f"read gateway {endpoint[1]}"
                        readers[endpoint] = group.create_task(self._follow(endpoint), name=name)
                await self._changed.wait()

    async def _follow(self, endpoint: _Endpoint) -> None:
        reader = gateway.Gateways(
            self._session, (endpoint,), self._access(endpoint),
            reading=self._reading, known=lambda: self._known(endpoint[0]),
        )  # fmt: skip
        while True:
            quick = self._loop.waking.sleeps(endpoint[0]) and not reader.failing
            if self._loop.leading or (self._always and self._loop.waking.sleeps(endpoint[0])):
                window = self._loop.waking.window if self._loop.leading else None
                try:
                    demand_by_key = await reader.demand(window, now=self._clock.monotonic())
                    self._loads[endpoint] = reader.load
                    self._unread[endpoint] = reader.problem
                    self._use(endpoint, demand_by_key)
                except Exception:
                    log.exception("gateway not read; retrying at the next scrape")
            elif self._demand_by_endpoint.get(endpoint):
                self._loads.pop(endpoint, None)
                self._unread.pop(endpoint, None)
                self._use(endpoint, {})  # what is not read any more wakes nothing later
            await self._clock.sleep(self._pause(endpoint[0], quick=quick))

    def _pause(self, namespace: str, *, quick: bool) -> float:
        """Seconds until the next reading of one gateway: many of one namespace share what it may have."""
        number = self._numbers[namespace]
        seconds = self._installation.gateway_seconds * max(number / PICKERS, 1.0)
        if quick:
            seconds = min(
                seconds, self._installation.wake_seconds * max(number / QUICK_PICKERS, 1.0)
            )
        return seconds

    def _known(self, namespace: str) -> Known:
        """What the variants of a namespace (empty: of all) have."""
        inputs = self._loop.inputs
        if self._known_by_inputs[0] is not inputs:
            self._known_by_inputs = (inputs, _by_namespace(inputs.variants))
        return self._known_by_inputs[1].get(namespace, _NOTHING)

    def _access(self, endpoint: _Endpoint) -> Access:
        """How a gateway is reached: one that a tenant's pool names does not get the operator's token."""
        trusted = (
            endpoint in self._installation.gateways
            or endpoint[0] in self._installation.gateway_token_namespaces
        )
        return replace(self._installation.gateway_access, trusted=trusted)

    def _use(
        self, endpoint: _Endpoint, demand_by_key: Mapping[gateway.ModelKey, gateway.Demand]
    ) -> None:
        """Use what a gateway shows: at once, or with that of others where joining all of it costs much."""
        if endpoint in self._unjoined:
            # What came until then is not lost.
            before, new = self._demand_by_endpoint.get(endpoint, {}), demand_by_key
            none = gateway.Demand()
            demand_by_key = {
                key: replace(item := new.get(key, none), arrived=item.arrived + came)
                for key in before.keys() | new.keys()
                for came in (before.get(key, none).arrived,)
            }
        self._demand_by_endpoint[endpoint] = demand_by_key
        loop = asyncio.get_running_loop()
        if loop.time() >= self._join_at and not self._unjoined:
            self._join()
            return
        if not self._unjoined:
            loop.call_at(self._join_at, self._join)
        self._unjoined.add(endpoint)

    def _join(self) -> None:
        """Use what all gateways show."""
        started = time.thread_time()
        self._unjoined.clear()
        whole: dict[gateway.ModelKey, gateway.Demand] = {}
        for part in self._demand_by_endpoint.values():
            for key, demand in part.items():
                whole[key] = whole.get(key, gateway.Demand()) + demand
        unread = {namespace: text for (namespace, _), text in self._unread.items() if text}
        self._loop.waking.use(whole, merged(self._loads.values()), unread)
        if self._loop.leading and self._to_wake():
            self._due.set()
        seconds = time.thread_time() - started
        if seconds > NOTICED_SECONDS:
            self._join_at = asyncio.get_running_loop().time() + seconds / _SHARE

    def _to_wake(self) -> frozenset[str]:
        """Variants at zero that were not woken a moment ago."""
        now, variants = asyncio.get_running_loop().time(), self._loop.waking.variants
        recent = {key for key, at in self._woken.items() if now - at < AGAIN_SECONDS}
        self._woken = {key: at for key, at in self._woken.items() if key in recent | variants}
        return variants - recent

    async def _wake_those_due(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            due = self._to_wake()
            if not due or not self._loop.leading:
                continue
            # Those that do not start though they were woken come last.
            order = in_turn(sorted(due, key=lambda key: (self._woken.get(key, -math.inf), key)))
            keys = frozenset(order[:WOKEN_AT_ONCE])
            if len(keys) < len(due):
                self._due.set()
                await asyncio.sleep(0)
            self._woken |= dict.fromkeys(keys, asyncio.get_running_loop().time())
            try:
                await self._wake(keys)
            except Exception:
                log.exception("variants not woken; the next cycle does it", variants=sorted(keys))


_NOTHING = Known(models=(), pods=())


def _by_namespace(variants: Iterable[VariantSource]) -> Mapping[str, Known]:
    """What the variants of each namespace have, and of the empty one those of all."""
    models: dict[str, set[str]] = {}
    pods: dict[str, set[Pod]] = {}
    for source in variants:
        for namespace in ("", source.namespace):
            models.setdefault(namespace, set()).add(source.model)
            pods.setdefault(namespace, set()).update(
                (source.namespace, name) for name in source.pods
            )
    return {key: Known(models=models[key], pods=pods[key]) for key in models}
