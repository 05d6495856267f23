"""A small world around the Kubernetes API in memory: pods that come and go, their metrics, the adapter."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from adapter.app import serving
from adapter.app.endpoints import Endpoints
from adapter.app.options import Installation, ServeOptions
from adapter.auth import local as local_auth
from adapter.clock import Clock
from adapter.collector.collector import CollectionSettings
from adapter.controller.demand import RateSettings
from adapter.controller.reconciler import Planner
from adapter.controller.settings import LoopSettings
from adapter.keda.options import KedaOptions
from adapter.kube.leader_election import LeaseTimes
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources.watched.scope import Scope
from adapter.tls.certificate_secret import OwnCertificates
from optimizer.stabilization import StabilizationLimits
from tests.fakes import kubernetes_api
from tests.fakes.kubernetes_api import Entrance, KubernetesApi
from tests.fakes.kubernetes_objects import ROOT, VARIANTS, Object
from tests.fakes.pods import pages

SYSTEM = "variant-adapter-system"
APPS, SCALERS, CORE = "/apis/apps/v1", "/apis/autoscaling/v2", "/api/v1"
LWS = "/apis/leaderworkerset.x-k8s.io/v1"
API_SERVICES = "/apis/apiregistration.k8s.io/v1"
API_SERVICE = "v1beta1.external.metrics.k8s.io"
HPA_CONTROLLER = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
SPEED = pages.SPEED
MODEL = pages.MODEL
Pages = pages.Pages

LOOP = LoopSettings(
    interval=10.0,
    collection=CollectionSettings(interval=3.0, window=20.0, long_window=0.0),
    rates=RateSettings(anticipate=False, drain_seconds=0, headroom=0),
    limits=StabilizationLimits(),
    retention=20.0,
    time_to_live=300.0,
    keep_accelerator=True,
    model_groups=False,
)
"""Variants of this world are each alone, though all serve one model.

Intervals in scenario seconds, of which the world's clock passes ten per second of the event loop."""

HANG_SECONDS = 500.0
"""After which a wait counts as endless: it decides nothing else, and is less than pytest's own limit."""

LEASE = LeaseTimes(duration=3, deadline=2.0, retry=0.3)


def manifests(name: str = "samples/configmaps.yaml") -> list[Object]:
    """Objects of a manifest."""
    text = (ROOT / "manifests" / name).read_text()
    return list(yaml.safe_load_all(text))


def variant(name: str, **spec: Any) -> Object:
    """A VariantAutoscaling in namespace `team-a`, of the emulated overlay's kind."""
    (document,) = manifests("overlays/emulated/variant.yaml")
    return {
        **document,
        "metadata": {**document["metadata"], "name": name, "namespace": "team-a"},
        "spec": {**document["spec"], **spec},
    }


def workload(name: str, replicas: int, kind: str = "Deployment") -> Object:
    """A scale target in namespace `team-a`."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c"}]}}
    return {
        "kind": kind,
        "metadata": {"name": name, "namespace": "team-a"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def scaler(name: str, *, target: str = "", low: int = 1, high: int = 10, **more: Any) -> Object:
    """A HorizontalPodAutoscaler that reads our metric of the variant `name`."""
    external = {
        "metric": {
            "name": "inferno_desired_replicas",
            "selector": {"matchLabels": {"variant_name": name}},
        },
        "target": {"type": "AverageValue", "averageValue": "1"},
    }
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target or name}
    return {
        "metadata": {"name": name, "namespace": "team-a"},
        "spec": {
            "scaleTargetRef": reference,
            "minReplicas": low,
            "maxReplicas": high,
            "metrics": [{"type": "External", "external": external}],
            **more,
        },
    }


async def plan_here(snapshot: fleet.Fleet) -> planning.Plan:
    """A plan without a worker process, whose low priority would starve it on a busy machine."""
    return planning.plan(snapshot)


def scale_to_zero(world: World) -> None:
    """Allow zero replicas for all variants, by the ConfigMap of the adapter."""
    config = manifests()[2]
    config["data"]["WVA_SCALE_TO_ZERO"] = "true"
    world.api.put(CORE, "configmaps", config)


class WorldClock(Clock):
    """The event loop's time at SPEED; `virtual_time.VirtualLoop` makes it independent of the machine."""

    def __init__(self) -> None:
        super().__init__(speed=SPEED)
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._started_unix = time.time()

    def time(self) -> float:
        """Unix time at the start of the world, and the loop's seconds since then."""
        return self._started_unix + self._loop.time() - self._started_at

    def monotonic(self) -> float:
        return (self._loop.time() - self._started_at) * self.speed


WORKLOADS = ((APPS, "deployments"), (APPS, "statefulsets"), (LWS, "leaderworkersets"))


class World:
    """The cluster with what runs in it.

    Attributes:
        clock: time of all replicas of the adapter.
        pages: of the pods; what they count is set by their `load`.
        waiting: requests in the gateway's queue.
        picker_lines: further lines of the gateway's page.
        starts: when new pods are ready.

    """

    def __init__(self, site: kubernetes_api.Site, folder: Path) -> None:
        self.site = site
        self.folder = folder
        self.api: KubernetesApi = site.api
        self.clock = WorldClock()
        self.pages = pages.Pages(self.clock)
        self.load = self.pages.load
        self.waiting = 0
        self.picker_lines = ""
        self.starts = pages.Starts(self.clock)
        self._ran_at = -1

    @property
    def gateway(self) -> str:
        """Metrics URL of the gateway's endpoint picker."""
        return f"http://127.0.0.1:{self.pages.port}/gateway"

    def standard(self) -> None:
        """ConfigMaps, the APIService, and variant `v` with one replica of a Deployment."""
        for item in manifests():
            self.api.put(CORE, "configmaps", item)
        (service,) = manifests("base/apiservice.yaml")
        self.api.put(API_SERVICES, "apiservices", service)
        self.deploy("v", 1)

    def deploy(self, name: str, replicas: int, **spec: Any) -> None:
        """A variant with its Deployment, and its pods at once."""
        self.api.put(APPS, "deployments", workload(name, replicas))
        self.api.put(VARIANTS, "variantautoscalings", variant(name, **spec))

    def variant(self, name: str = "v") -> Object:
        return self.api.get(VARIANTS, "variantautoscalings", "team-a", name)

    def status(self, name: str = "v") -> Object:
        document: Object = self.variant(name).get("status") or {}
        return document

    def desired(self, name: str = "v") -> int | None:
        """Replicas that the status wants."""
        replicas: int | None = (self.status(name).get("desiredOptimizedAlloc") or {}).get(
            "numReplicas"
        )
        return replicas

    def condition(self, kind: str, name: str = "v") -> tuple[str, str, str]:
        """Status, reason and message; empty ones without the condition."""
        for item in self.status(name).get("conditions") or ():
            if item["type"] == kind:
                return item["status"], item["reason"], item["message"]
        return "", "", ""

    def events(self) -> list[tuple[str, str, str]]:
        """Type, reason and note of all Events."""
        documents = self.api.all("/apis/events.k8s.io/v1", "events")
        return [(item["type"], item["reason"], item["note"]) for item in documents]

    def ca_bundle(self) -> bytes:
        """Of the APIService."""
        service = self.api.get(API_SERVICES, "apiservices", "", API_SERVICE)
        return base64.b64decode(service["spec"].get("caBundle") or "")

    def available(self) -> None:
        """What the aggregation layer says of the APIService once it reaches us."""
        condition = {"type": "Available", "status": "True"}
        self.api.set_status(API_SERVICES, "apiservices", "", API_SERVICE, conditions=[condition])

    def run_workloads(self) -> None:
        """What controllers and kubelets do: pods and status follow the spec."""
        self._start_pods()
        if self.api.version == self._ran_at:
            return
        pods: dict[tuple[str, str], set[str]] = {}
        for (namespace, name), pod in self.api.objects.get((CORE, "pods"), {}).items():
            pods.setdefault((namespace, pod["metadata"]["labels"].get("app", "")), set()).add(name)
        for root, plural in WORKLOADS:
            for (namespace, name), item in list(self.api.objects.get((root, plural), {}).items()):
                if "leaderWorkerTemplate" not in item["spec"]:  # `pods.groups` makes their pods
                    self._run_workload(root, plural, item, pods.get((namespace, name), set()))
        self._ran_at = self.api.version

    def _run_workload(self, root: str, plural: str, item: Object, there: set[str]) -> None:
        namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
        wanted = {f"{name}-{number}" for number in range(item["spec"]["replicas"])}
        for pod in there - wanted:
            self.api.remove(CORE, "pods", namespace, pod)
            self.pages.finished.pop(pod, None)
            self.starts.coming.pop((namespace, name, pod), None)
        for pod in wanted - there:
            status = self.starts.begin(namespace, name, pod)
            if status:
                self.api.put(CORE, "pods", {**self._pod(namespace, name, pod), "status": status})
        self._start_pods()
        if (item.get("status") or {}).get("replicas") != len(wanted):
            self.api.set_status(root, plural, namespace, name, replicas=len(wanted))

    def _start_pods(self) -> None:
        """Make those ready whose time has come."""
        for namespace, name, pod in self.starts.due():
            self.pages.finished[pod] = 0.0
            self.api.put(CORE, "pods", self._pod(namespace, name, pod))

    def _pod(self, namespace: str, workload_name: str, name: str) -> Object:
        notes = {"prometheus.io/port": str(self.pages.port), "prometheus.io/path": f"/pods/{name}"}
        return {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"app": workload_name},
                "annotations": notes,
            },
            "spec": {"nodeName": "node", "containers": [{"name": "vllm"}]},
            "status": {
                "phase": "Running",
                "podIP": "127.0.0.1",
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }

    async def _gateway(self, _: web.Request) -> web.Response:
        name = "inference_extension_flow_control_queue_size"
        return web.Response(
            text=f'# TYPE {name} gauge\n{name}{{target_model_name="{MODEL}"}} {self.waiting}\n'
            f"{self.picker_lines}"
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve the pods' metrics and run the workloads until the context ends."""

        async def work() -> None:
            while True:
                self.run_workloads()
                await asyncio.sleep(0.05)

        async with self.pages.served(gateway=self._gateway):
            task = asyncio.create_task(work(), name="controllers and kubelets")
            try:
                yield
            finally:
                task.cancel()

    @contextlib.asynccontextmanager
    async def replica(
        self,
        name: str,
        *,
        loop: LoopSettings = LOOP,
        scope: Scope | None = None,
        own: OwnCertificates | None = None,
        interval: float | None = LOOP.interval,
        entrance: Entrance | None = None,
        planner: Planner = plan_here,
        keda: KedaOptions | None = None,
        lease: LeaseTimes = LEASE,
        **installation: Any,
    ) -> AsyncIterator[tuple[Endpoints, Entrance]]:
        """One replica of the adapter, serving."""
        if entrance is None:
            entrance = await self.site.entrance(name)
        options = ServeOptions(
            variants=None,
            host="127.0.0.1",
            port=0,
            certificates=local_auth.Files(state=self.folder / f"state-{name}"),
            loop=loop,
            interval=interval,
            installation=Installation(
                identity=name,
                kubeconfig=entrance.kubeconfig,
                scope=scope or Scope(config_namespace=SYSTEM),
                lease=lease,
                certificates=own or OwnCertificates(namespace=SYSTEM),
                **{"gateway_seconds": 1.0, **installation},
            ),
            metrics_port=0,
            keda=keda,
        )
        async with serving.serving(options, clock=self.clock, planner=planner) as endpoints:
            yield endpoints, entrance

    async def metric(
        self,
        endpoints: Endpoints,
        name: str = "v",
        of: str = "inferno_desired_replicas",
        more: str = "",
    ) -> list[str]:
        """Values of a variant's metric as the HPA controller gets them; `more`: of the HPA's selector."""
        bundle = self.ca_bundle().decode()
        context = ssl.create_default_context(cadata=bundle)
        folder = self.site.certificates.folder
        context.load_cert_chain(folder / "fp.crt", folder / "fp.key")
        selector = urllib.parse.quote(f"variant_name={name}{more}")
        path = (
            f"/apis/external.metrics.k8s.io/v1beta1/namespaces/team-a/{of}?labelSelector={selector}"
        )
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                endpoints.url + path,
                ssl=context,
                server_hostname="variant-adapter.variant-adapter-system.svc",
                headers={"X-Remote-User": HPA_CONTROLLER},
            ) as response,
        ):
            document = await response.json()
            assert response.status == 200, document
            return [item["value"] for item in document["items"]]


async def until(true: Callable[[], object]) -> None:
    """Wait until something holds."""
    try:
        async with asyncio.timeout(HANG_SECONDS):
            while not true():  # noqa: ASYNC110 - many things change it
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError("it did not come to hold") from None


@contextlib.asynccontextmanager
async def running(
    folder: Path, *, rules: list[Object] | None = None, actuate: bool = False, limited: bool = False
) -> AsyncIterator[World]:
    """A world with the standard objects, in which the manifests forbid no request of the adapter."""
    granted = kubernetes_api.applied_rules(actuate=actuate, limited=limited)
    async with kubernetes_api.running(folder, rules=granted if rules is None else rules) as site:
        world = World(site, folder)
        consent = {"annotations": {"llmd.ai/allow-scale": "true"}} if actuate else {}
        world.api.put(CORE, "namespaces", {"metadata": {"name": "team-a", **consent}})
        async with world.running():
            world.standard()
            yield world
        if rules is None:
            assert site.api.denied == []
