"""The doctor's checks one by one: fields of HPAs, and a cluster that refuses or does not answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adapter.app import serving
from adapter.app.options import ServeOptions
from adapter.auth.local import Files
from adapter.clock import Clock
from adapter.controller.settings import LoopSettings
from adapter.diagnostics import doctor, hpa_fields, hpas
from adapter.diagnostics.site import Finding, Site
from adapter.installation import Names
from adapter.kube import labels
from adapter.kube.client import connected
from adapter.kube.scale import Reference
from adapter.resources import hpa
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api

READING = hpa.Reading(
    metric="inferno_desired_replicas",
    selector=labels.parse("variant_name=v"),
    target_type="AverageValue",
    target=1.0,
)
EXACT = hpa.Scaler(
    namespace="n",
    name="v",
    reference=Reference(name="v"),
    minimum=1,
    maximum=20,
    up_tolerance=0.0,
    down_tolerance=0.0,
)

ONE_IN_15_MINUTES = hpa.Policy(kind="Pods", value=1, seconds=900)
TEN_IN_150_S = hpa.Policy(kind="Pods", value=10, seconds=150)


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (READING, ""),
        (replace(READING, metric="wva_desired_replicas"), ""),
        (replace(READING, target_type="Value"), "target.type Value multiplies the target"),
        (replace(READING, target=2.0), "averageValue 2 divides the replicas"),
        (replace(READING, target=None), "averageValue is not a number above 0"),
        (replace(READING, metric="inferno_desired_ratio"), "is not a replica count"),
        (replace(READING, metric="queue_length"), "is not a replica count"),
    ],
)
def test_the_metric_must_be_read_as_replicas(reading: hpa.Reading, said: str) -> None:
    """Only AverageValue 1 of a number of replicas gives the HPA our target; all else is an error."""
    findings = hpa_fields.of_fields("HPA n/v", EXACT, reading, 36, {})
    assert [finding.level for finding in findings] == (["error"] if said else [])
    assert all(said in finding.what and finding.fix for finding in findings)


@pytest.mark.parametrize(
    ("scaler", "minor", "settings", "fixes"),
    [
        (EXACT, 36, {}, []),
        (
            replace(EXACT, up_tolerance=0.1, down_tolerance=0.1),
            36,
            {},
            ["set behavior.scaleUp.tolerance: 0 and behavior.scaleDown.tolerance: 0"],
        ),
        (replace(EXACT, down_tolerance=0.1), 36, {}, ["set behavior.scaleDown.tolerance: 0"]),
        (replace(EXACT, up_tolerance=0.1, maximum=9), 36, {}, []),
        (replace(EXACT, up_tolerance=0.1), 34, {}, []),
        (replace(EXACT, up_tolerance=0.04), 36, {}, []),
        (
            replace(EXACT, up_tolerance=0.5, maximum=4),
            36,
            {},
            ["set behavior.scaleUp.tolerance: 0"],
        ),
        (
            replace(EXACT, up_seconds=240),
            36,
            {},
            ["set behavior.scaleUp.stabilizationWindowSeconds: 0"],
        ),
        (replace(EXACT, up_seconds=30, down_seconds=3600), 36, {}, []),
        (
            replace(EXACT, up_policies=(ONE_IN_15_MINUTES,)),
            36,
            {},
            ["raise behavior.scaleUp.policies"],
        ),
        (replace(EXACT, up_policies=(ONE_IN_15_MINUTES, TEN_IN_150_S)), 36, {}, []),
        (
            replace(EXACT, up_policies=(ONE_IN_15_MINUTES, TEN_IN_150_S), up_least=True),
            36,
            {},
            ["raise behavior.scaleUp.policies"],
        ),
        (replace(EXACT, down_policies=(ONE_IN_15_MINUTES,)), 36, {}, []),
        (replace(EXACT, down_disabled=True), 36, {}, ["set behavior.scaleDown.selectPolicy: Max"]),
        (EXACT, 37, {"WVA_SCALE_TO_ZERO": "True"}, ["set minReplicas: 0, or annotate"]),
        (EXACT, 36, {"WVA_SCALE_TO_ZERO": "True"}, ["set minReplicas: 0 (feature gate HPAScaleTo"]),
        (replace(EXACT, minimum=0), 36, {"WVA_SCALE_TO_ZERO": "true"}, []),
    ],
)
def test_fields_that_keep_a_target_from_being_followed(
    scaler: hpa.Scaler, minor: int, settings: dict[str, str], fixes: list[str]
) -> None:
    """Tolerances matter where they hide a replica and Kubernetes has them; so does minReplicas at zero."""
    findings = hpa_fields.of_fields("HPA n/v", scaler, READING, minor, settings)
    assert [finding.level for finding in findings] == ["warning"] * len(fixes)
    assert all(item.fix.startswith(fix) for item, fix in zip(findings, fixes, strict=True))


@pytest.mark.parametrize(
    ("metric", "target", "ours"),
    [
        (f"s0-{hpa.KEDA_METRIC}", "v", True),
        ("s0-prometheus", "v", True),
        ("composite-metric", "v", True),
        ("s1-prometheus-inferno_desired_replicas", "v", True),
        ("s0-prometheus", "another", False),
        ("composite-metric", "another", False),
    ],
)
async def test_rules_of_an_hpa_that_keda_made_are_examined_too(
    metric: str, target: str, *, ours: bool, tmp_path: Path
) -> None:
    """The HPA shows no value to ask for, of the external scaler or of a query; others' are not ours."""
    slow = {"scaleUp": {"stabilizationWindowSeconds": 300}}
    item = worlds.scaler("keda-hpa-v", target=target, behavior=slow)
    item["metadata"]["labels"] = {"scaledobject.keda.sh/name": "v"}
    (one,) = item["spec"]["metrics"]
    one["external"]["metric"] = {"name": metric}
    async with worlds.running(tmp_path) as world:
        world.api.put(worlds.SCALERS, "horizontalpodautoscalers", item)
        admin = await world.site.entrance("admin", user="")
        async with connected(admin.kubeconfig) as cluster:
            said = [finding.what async for finding in hpas.check(Site(cluster, Names()))]
    assert any("stabilizationWindowSeconds is 300" in text for text in said) is ours
    assert any("no HPA reads its target" in text for text in said) is not ours


def test_a_tolerance_is_told_as_it_is() -> None:
    """The share is the HPA's own, not Kubernetes' default."""
    scaler = replace(EXACT, up_tolerance=0.5, down_tolerance=0.125)
    (finding,) = hpa_fields.of_fields("HPA n/v", scaler, READING, 36, {})
    assert "ignores changes of up to 50 %" in finding.what


async def examined(
    folder: Path, code: int | None, forbidden: str = ""
) -> tuple[list[Finding], kubernetes_api.KubernetesApi]:
    """All findings where paths that end with `forbidden` get a status."""
    async with kubernetes_api.running(folder) as site:
        admin = await site.entrance("admin", user="")
        admin.answer = lambda _, path: code if path.endswith(forbidden) else None
        async with connected(admin.kubeconfig) as cluster:
            findings = [finding async for finding in doctor.findings(Site(cluster, Names()))]
        return findings, site.api


@pytest.mark.parametrize(
    ("code", "fix"),
    [(403, "have that right granted to you"), (429, "try again later"), (500, "try again later")],
)
async def test_a_check_that_cannot_run_is_a_finding(tmp_path: Path, code: int, fix: str) -> None:
    """Refused or broken, it is an error with the reason and what helps, and all other checks run."""
    whole, _ = await examined(tmp_path / "a", None)
    partly, _ = await examined(tmp_path / "b", code, f"/leases/{Names().lease}")
    (failed,) = [finding for finding in partly if finding.what.startswith("check failed")]
    assert str(code) in failed.what
    assert failed.level == "error"
    assert failed.fix.startswith(fix)
    missing = [finding for finding in whole if finding not in partly]
    assert [finding.what for finding in missing] == [
        "no Lease variant-adapter-system/variant-adapter: the adapter has never started"
    ]
    assert len(partly) == len(whole)


@pytest.mark.parametrize(("code", "reviews"), [(403, "have that right"), (503, "try again")])
async def test_reviews_that_are_refused_have_the_fix_of_their_refusal(
    tmp_path: Path, code: int, reviews: str
) -> None:
    """Two checks need them, which is said once."""
    findings, _ = await examined(tmp_path, code, "/subjectaccessreviews")
    (failed,) = [item for item in findings if item.what.startswith("check failed")]
    assert failed.fix.startswith(reviews)


async def test_credentials_that_are_not_accepted_are_one_finding(tmp_path: Path) -> None:
    """No other check would get an answer, and none of their fixes is the one that helps."""
    (finding,), _ = await examined(tmp_path, 401)
    assert finding.level == "error"
    assert finding.fix.startswith("renew the credentials")


async def test_a_crd_that_is_missing_is_said_with_its_fix(tmp_path: Path) -> None:
    """The list that there is not is what several checks read, and is said once."""
    async with kubernetes_api.running(tmp_path) as site:
        admin = await site.entrance("admin", user="")
        admin.answer = lambda _, path: 404 if "llmd.ai" in path else None
        async with connected(admin.kubeconfig) as cluster:
            findings = [item async for item in doctor.findings(Site(cluster, Names()))]
    told = [item for item in findings if "variantautoscalings" in item.what]
    assert len(told) == 2
    assert all(item.fix.endswith("kubectl apply -k manifests/crd") for item in told)


async def test_who_may_not_list_all_deployments_gets_no_finding_of_it(tmp_path: Path) -> None:
    """Whether another autoscaler runs is then not seen; an API server that fails is one."""
    refused, _ = await examined(tmp_path / "a", 403, "/apis/apps/v1/deployments")
    assert [item.what for item in refused if "deployments" in item.what] == []
    broken, _ = await examined(tmp_path / "b", 500, "/apis/apps/v1/deployments")
    assert len(broken) == len(refused) + 1


async def test_collections_are_listed_once(tmp_path: Path) -> None:
    """However many checks read the variants or the ConfigMaps, one list is requested, and nothing written."""
    _, api = await examined(tmp_path, None)
    lists = [path for _, _, path in api.requests if path.endswith("/variantautoscalings")]
    assert len(lists) == 1
    reviews = {"subjectaccessreviews", "tokenreviews"}
    writes = [path for _, method, path in api.requests if method != "GET"]
    assert [path for path in writes if path.rpartition("/")[2] not in reviews] == []


async def test_without_an_answer_there_is_one_finding(tmp_path: Path) -> None:
    """Nothing listens: every other check would say the same, and more rights would not help."""
    (tmp_path / "config").write_text(
        "{current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],"
        " clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}],"
        " users: [{name: u, user: {token: t}}]}"
    )
    async with connected(tmp_path / "config") as cluster:
        (finding,) = [finding async for finding in doctor.findings(Site(cluster, Names()))]
    assert finding.level == "error"
    assert finding.what.startswith("no answer of the API server: /version: ")
    assert "--kubeconfig and --context" in finding.fix


async def test_a_server_that_is_not_kubernetes_is_one_finding(
    tmp_path: Path, objects: Path
) -> None:
    """Such as an adapter without a cluster, whose own kubeconfig was given: nothing else is checked."""
    options = ServeOptions(
        variants=objects,
        host="127.0.0.1",
        port=0,
        certificates=Files(state=tmp_path / "state"),
        loop=LoopSettings(),
    )
    async with (
        serving.serving(options, clock=Clock()),
        connected(tmp_path / "state" / "kubeconfig") as cluster,
    ):
        (adapter,) = [finding async for finding in doctor.findings(Site(cluster, Names()))]
    (any_other,), _ = await examined(tmp_path, 404, "/version")
    for finding, said in ((adapter, "its version is v0."), (any_other, "it has no /version")):
        assert finding.level == "error"
        assert said in finding.what
        assert "--kubeconfig" in finding.fix
