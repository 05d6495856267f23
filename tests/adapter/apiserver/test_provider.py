"""The seam between API server and metrics: two methods, whoever implements them; and one set of probes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from prometheus_client import CollectorRegistry, Gauge

from adapter.apiserver import delegation, handlers, probes, provider, status
from adapter.auth import authentication, authorization, users
from adapter.kube.labels import Selector, parse
from adapter.store import Entry, Series, TargetStore

METRIC = "/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/queue"
KIND = '"kind":"ExternalMetricValueList","apiVersion":"external.metrics.k8s.io/v1beta1"'


@dataclass
class Queue:
    """The smallest provider: one metric with one value."""

    name: str = "queue"
    calls: list[tuple[str, str, Selector]] = field(default_factory=list)
    callers: list[provider.Caller] = field(default_factory=list)
    error: status.StatusError | None = None

    async def get_external_metric(
        self, namespace: str, name: str, selector: Selector
    ) -> Sequence[provider.MetricValue]:
        self.calls.append((namespace, name, selector))
        self.callers.append(provider.CALLER.get())
        if self.error is not None:
            raise self.error
        return [Entry({}, 100.0, None, b'{"value":"5"}')]

    def list_external_metrics(self) -> Sequence[str]:
        return (self.name,)


class Anyone:
    """A policy without authorities: everything is allowed."""

    async def decide(
        self, user: users.User, attributes: authorization.Attributes
    ) -> authorization.AccessDecision:
        return authorization.AccessDecision(allowed=bool(user.name and attributes.verb))


@contextlib.asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def application(source: provider.ExternalMetricsProvider, shared: probes.Probes) -> web.Application:
    return handlers.application(
        provider=source,
        authenticator=authentication.Authenticator(authentication.IdentityConfig()),
        policy=Anyone(),
        probes=shared,
        now=lambda: 107.0,
    )


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


def fresh(**checks: probes.Check) -> probes.Probes:
    return probes.Probes(CollectorRegistry(), checks)


async def test_two_methods_are_enough() -> None:
    """Any object with the two methods is served: values, discovery, freshness, and its errors."""
    source, shared = Queue(), fresh()
    async with listening(application(source, shared)) as url:
        code, text = await get(f"{url}{METRIC}?labelSelector=a%3Db")
        assert (code, text) == (200, f'{{{KIND},"metadata":{{}},"items":[{{"value":"5"}}]}}\n')
        assert '"name":"queue"' in (await get(f"{url}/apis/external.metrics.k8s.io/v1beta1"))[1]
        source.error = status.unavailable("the queue is gone")
        code, text = await get(f"{url}{METRIC}")
    assert (code, "the queue is gone" in text) == (503, True)
    assert source.calls == [("ns", "queue", parse("a=b")), ("ns", "queue", parse(""))]
    assert source.callers[0].user == users.ANONYMOUS
    assert source.callers[0].path_qs == f"{METRIC}?labelSelector=a%3Db"
    assert b'freshness_seconds_sum{group="external.metrics.k8s.io"} 7.0' in await shared.metrics()


@pytest.mark.parametrize("query", ["labelSelector=a%3D%3D%3Db", "limit=x", "watch=true"])
async def test_providers_see_valid_requests_only(query: str) -> None:
    """What is malformed, or cannot be answered by any provider, is refused before one is asked."""
    source = Queue()
    async with listening(application(source, fresh())) as url:
        assert (await get(f"{url}{METRIC}?{query}"))[0] in {400, 405}
    assert source.calls == []


async def test_each_metric_has_one_provider() -> None:
    """Ours are those that are published or reserved; all others are the other provider's."""
    own, other = Queue("ours"), Queue("theirs")
    merged: provider.ExternalMetricsProvider = provider.Merged(own, other, reserved={"reserved"})
    assert merged.list_external_metrics() == ("ours", "theirs")
    headers = CIMultiDictProxy(CIMultiDict[str]())
    provider.CALLER.set(provider.Caller(user=users.ANONYMOUS, path_qs="", headers=headers))
    for name in ("ours", "reserved", "theirs", "unknown"):
        await merged.get_external_metric("ns", name, Selector())
    assert [name for _, name, _ in own.calls] == ["ours", "reserved"]
    assert [name for _, name, _ in other.calls] == ["theirs", "unknown"]


async def test_store_and_delegate_are_providers() -> None:
    """Both satisfy the protocol; the store's items expire by its own clock."""
    now = [0.0]
    store = TargetStore(now=lambda: now[0])
    store.publish(
        [Series(metric="m", namespace=None, labels={}, value="1", decided_at=0, valid_until=5)]
    )
    source: provider.ExternalMetricsProvider = store
    assert source.list_external_metrics() == ("m",)
    assert len(await store.get_external_metric("ns", "m", Selector())) == 1
    now[0] = 5.0
    assert await source.get_external_metric("ns", "m", Selector()) == []
    async with aiohttp.ClientSession() as session:
        options = delegation.DelegateOptions(url="https://127.0.0.1:9")
        source = delegation.Delegate(options, session)
        assert source.list_external_metrics() == ()


async def test_both_ports_have_the_same_probes() -> None:
    """API port and metrics port give the same checks and metrics; only the status of a failure differs."""
    problem: list[str] = []
    shared = fresh(ping=lambda: None, objects=lambda: problem[0] if problem else None)
    plain_application = web.Application()
    probes.add_plain(plain_application, shared)
    Gauge("answer", "What it is.", registry=shared.registry).set(42)
    async with (
        listening(application(Queue(), shared)) as api,
        listening(plain_application) as plain,
    ):
        for path in ("/healthz", "/livez", "/readyz", "/readyz?verbose&exclude=ping", "/metrics"):
            assert await get(api + path) == await get(plain + path)
        assert "answer 42.0" in (await get(f"{plain}/metrics"))[1]
        problem.append("not read yet")
        said = "[+]ping ok\n[-]objects failed: not read yet\nreadyz check failed\n"
        assert await get(f"{api}/readyz") == (500, said)
        assert await get(f"{plain}/readyz") == (503, said)
        assert await get(f"{plain}/livez") == (200, "ok")
        shared.use({"other": lambda: None})
        assert await get(f"{plain}/readyz?verbose") == (200, "[+]other ok\nreadyz check passed\n")
