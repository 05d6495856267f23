"""What somebody with rights on VariantAutoscalings of one namespace can do in a real control plane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapter.kube import client, errors
from adapter.resources import annotations as known
from tests.e2e import control_plane, installation
from tests.e2e.installation import DEPLOYMENTS, RBAC, VARIANTS, Installation, until
from tests.fakes import cluster_world as worlds
from tests.security.test_odd_objects import NOTES, PROFILES
from tests.security.test_scale_targets import ESCAPES

pytestmark = control_plane.MARKS

METRIC = "/apis/external.metrics.k8s.io/v1beta1/namespaces/team-a/inferno_desired_replicas"
ACTUATE = installation.ROOT / "manifests/overlays/actuate"
MERGE = "application/merge-patch+json"
SCALING = {"llmd.ai/actuate": "scale", "llmd.ai/max-replicas": "0", "llmd.ai/allow-scale": "true"}
"""Annotations of somebody who wants another's workload to be at zero."""

TARGET = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "v"}

REFUSED: tuple[dict[str, Any], ...] = (
    *(
        {"scaleTargetRef": {**TARGET, field: text}}
        for field in TARGET
        for text in (*ESCAPES, "apps/v1/namespaces/kube-system", "apps//v1")
        if (field, text) not in {("kind", "V"), ("apiVersion", "V"), ("apiVersion", ""), ("kind", "")}
    ),
    {"modelID": "m" * 5000},
    {"maxReplicas": 2**40},
)  # fmt: skip
"""Specs that the CRD's schema refuses."""

LABELS = ({known.ACCELERATOR_LABEL: "A" * 64}, {known.ACCELERATOR_LABEL: "../x"})
"""Labels that the API server refuses of whatever object."""

SHAPES = (
    "[" * 50_000,
    '{"a":' * 20_000,
    "&a [*a]",
    "\u2028\ufeff\U0001f4a5",
    "-" * 30_000,
    "0x" + "f" * 9000,
)
"""Texts that end one parser or another, for each annotation that the adapter reads."""

ANNOTATIONS = sorted(
    {
        text
        for name, text in vars(known).items()
        if name.isupper() and isinstance(text, str) and text.startswith("llmd.ai/")
    }
    - {known.ALLOW_SCALE}
)


async def tenant(cluster: Installation) -> Path:
    """A kubeconfig of somebody who may do everything with variants of team-a, and nothing else."""
    rights = {
        "apiGroups": ["llmd.ai"],
        "resources": ["variantautoscalings"],
        "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
    }
    metadata = {"name": "tenant", "namespace": "team-a"}
    where = f"{RBAC}/namespaces/team-a"
    await cluster.plane.create(f"{where}/roles", {"metadata": metadata, "rules": [rights]})
    binding = {
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}],
    }
    await cluster.plane.create(f"{where}/rolebindings", binding)
    return cluster.plane.kubeconfig("tenant", "ann", [])


def variant(name: str, notes: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    item = worlds.variant(name, **spec)
    item["metadata"]["annotations"] = notes or {}
    return item


async def test_the_api_refuses_what_it_should(tmp_path: Path) -> None:
    """Paths, kinds, versions and sizes by the schema; status, scale, consent and metrics by RBAC."""
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        await cluster.workload("victim", 3)
        async with client.connected(await tenant(cluster)) as ann:
            profiles = [worlds.variant("p") for _ in PROFILES]
            for item, part in zip(profiles, PROFILES, strict=True):
                item["spec"]["modelProfile"]["accelerators"][0].update(part)
            bad = [variant(f"r{n}", **spec) for n, spec in enumerate(REFUSED)]
            labelled = [variant(f"l{n}") for n in range(len(LABELS))]
            for item, labels in zip(labelled, LABELS, strict=True):
                item["metadata"]["labels"] = labels
            for item in (*bad, *labelled, *profiles):
                with pytest.raises(errors.ApiError) as caught:
                    await ann.request("POST", VARIANTS, body=item)
                # 400: a number that JSON's integers of the API server do not hold.
                assert caught.value.code in {400, 422}, item
            other = VARIANTS.replace("team-a", "kube-system")
            consent = {"metadata": {"annotations": {"llmd.ai/allow-scale": "true"}}}
            for method, path, body in (
                ("POST", other, variant("coredns", SCALING)),
                ("PATCH", f"{VARIANTS}/v/status", {"status": {}}),
                ("PATCH", f"{DEPLOYMENTS}/victim/scale", {"spec": {"replicas": 0}}),
                ("PATCH", f"{DEPLOYMENTS}/victim", consent),
                ("PATCH", "/api/v1/namespaces/team-a", consent),
                ("GET", METRIC, None),
                ("GET", f"/api/v1/namespaces/{installation.SYSTEM}/secrets", None),
                ("GET", f"/api/v1/namespaces/{installation.SYSTEM}/configmaps", None),
            ):
                with pytest.raises(errors.Forbidden):
                    await ann.request(method, path, body=body, content_type=MERGE)


async def test_scaling_needs_a_consent_that_a_tenant_cannot_give(tmp_path: Path) -> None:
    """With every right of the overlay: nothing is patched until the owner of the workload allows it."""
    async with installation.running(tmp_path) as cluster:
        for name in ("scale.yaml", "fence.yaml"):
            await cluster.kubectl("apply", "-f", str(ACTUATE / name))
        await cluster.deploy("v", 1)
        await cluster.workload("victim", 3)
        async with (
            client.connected(await tenant(cluster)) as ann,
            cluster.replica("a", "--actuate=scale") as replica,
        ):
            await until(replica.ready, what="readiness", log=replica.log)
            notes = {
                **SCALING,
                "llmd.ai/metrics-endpoints": f"http://127.0.0.1:{cluster.pages.port}/pods/victim-0",
            }
            cluster.pages.finished["victim-0"] = 0.0
            await ann.request("POST", VARIANTS, body=variant("victim", notes))

            async def denied() -> bool:
                return (await cluster.condition("TargetResolved", "victim"))[1] == "ScaleNotAllowed"

            await until(denied, what="the refusal")
            # Another's target, however it is spelled.
            for number, spelling in enumerate(("Deployment", "deployment", "DEPLOYMENT")):
                reference = {"kind": spelling, "name": "v", "apiVersion": "apps/v1"}
                item = variant(f"w{number}", SCALING, scaleTargetRef=reference)
                await ann.request("POST", VARIANTS, body=item)

                async def conflict(name: str = f"w{number}") -> bool:
                    return (await cluster.condition("TargetResolved", name))[1] == "TargetConflict"

                await until(conflict, what=f"the conflict of {spelling}")
            assert await cluster.replicas("victim") == 3
            assert await cluster.replicas("v") == 1
            await cluster.kubectl(
                "annotate", "deployment", "victim", "-n", "team-a", "llmd.ai/allow-scale=true"
            )

            async def scaled() -> bool:
                return await cluster.replicas("victim") < 3

            await until(scaled, what="the scaling with consent")
            assert await cluster.replicas("v") == 1


async def test_odd_annotations_of_a_tenant_touch_no_other_variant(tmp_path: Path) -> None:
    """Each is a condition of its own variant, and the others are decided as ever, before and after."""
    odd = [*NOTES, *((name, text) for name in ANNOTATIONS for text in SHAPES)]
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        cluster.pages.load["v"] = 6.0
        async with client.connected(await tenant(cluster)) as ann, cluster.replica("a") as replica:
            await until(replica.ready, what="readiness")
            for number, (name, text) in enumerate(odd):
                await cluster.workload(f"a{number}", 1)
                await ann.request("POST", VARIANTS, body=variant(f"a{number}", {name: text}))

            async def assessed() -> bool:
                items = (await cluster.get(VARIANTS))["items"]
                return all((item.get("status") or {}).get("conditions") for item in items)

            await until(cluster.sized, what="the decision for v")
            await until(assessed, seconds=180, what="a condition of each")
            accepted = []
            for number, (name, _) in enumerate(odd):
                status, reason, message = await cluster.condition("OptimizationReady", f"a{number}")
                if (status, reason) != ("False", "InvalidConfiguration") or name not in message:
                    accepted.append((number, name, status, reason, message))
                assert len(message) < 2000
            assert accepted == []
            before = await cluster.desired() or 0
            cluster.pages.load["v"] = 40.0

            async def more() -> bool:
                return (await cluster.desired() or 0) > before

            await until(more, what="the next decision for v")
            assert replica.process.returncode is None


async def test_addresses_of_a_tenant_are_not_visited(tmp_path: Path) -> None:
    """What is not allowed is not connected to; what is, and sends elsewhere, is not followed nor quoted."""
    secret, seen = "body-of-somebody-else", []

    async def inner(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(text=secret)

    async def outer(_: web.Request) -> web.Response:
        raise web.HTTPFound(f"http://127.0.0.2:{hidden.port}/{secret}")

    app, way = web.Application(), web.Application()
    app.router.add_route("*", "/{path:.*}", inner)
    way.router.add_route("*", "/{path:.*}", outer)
    async with (
        TestServer(app, host="127.0.0.2") as hidden,
        TestServer(way, host="127.0.0.1") as passing,
        installation.running(tmp_path) as cluster,
    ):
        rows = {
            "direct": f"http://127.0.0.2:{hidden.port}/metrics",
            "number": f"http://2130706434:{hidden.port}/metrics",
            "mapped": f"http://[::ffff:127.0.0.2]:{hidden.port}/metrics",
            "named": f"http://localhost:{hidden.port}/metrics",
            "user": f"http://127.0.0.1:{hidden.port}@127.0.0.2:{hidden.port}/metrics",
            "api": f"{cluster.plane.url.replace('127.0.0.1', '127.0.0.2')}/metrics",
            "redirect": f"http://127.0.0.1:{passing.port}/metrics",
        }
        async with client.connected(await tenant(cluster)) as ann, cluster.replica("a") as replica:
            await until(replica.ready, what="readiness")
            for name, url in rows.items():
                await cluster.workload(name, 1)
                notes = {known.ENDPOINTS: url}
                await ann.request("POST", VARIANTS, body=variant(name, notes))
            for name in rows:

                async def refused(name: str = name) -> bool:
                    ready = (await cluster.condition("OptimizationReady", name))[0]
                    collected = (await cluster.condition("MetricsAvailable", name))[0]
                    return "False" in {ready, collected}

                await until(refused, what=f"the condition of {name}")
            assert seen == []
            said = str((await cluster.get(VARIANTS))["items"])
            assert secret not in said
            assert secret not in replica.log.read_text()
