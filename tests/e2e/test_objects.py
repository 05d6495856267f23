"""VariantAutoscalings in a real API server, by the real kubectl: schema, rules, columns, field owners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapter.kube import client, errors
from tests.e2e import control_plane, installation
from tests.e2e.installation import VARIANTS, until
from tests.fakes import cluster_world as worlds

pytestmark = control_plane.MARKS

PARTS = "spec.modelProfile.accelerators"
"""Where most fields are."""

EXPLAINED = (
    "", "spec", "spec.modelID", "spec.scaleTargetRef.name", "spec.maxReplicas", f"{PARTS}",
    f"{PARTS}.maxBatchSize", f"{PARTS}.engine.kvTokens", f"{PARTS}.perfParms.stepParms.base",
    "status", "status.desiredOptimizedAlloc.numReplicas", "status.history", "status.conditions",
)  # fmt: skip


def accelerator(**fields: Any) -> dict[str, Any]:
    """A spec whose only accelerator has these fields; None leaves one out."""
    (entry,) = worlds.variant("v")["spec"]["modelProfile"]["accelerators"]
    entry = {name: value for name, value in {**entry, **fields}.items() if value is not None}
    return {"modelProfile": {"accelerators": [entry]}}


REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("needs either perfParms or flat alpha and beta", accelerator(perfParms=None)),
    ("needs either perfParms or flat alpha and beta", accelerator(perfParms=None, alpha="1")),
    ("needs maxBatchSize or engine.maxNumSeqs", accelerator(maxBatchSize=None)),
    ("needs decodeParms or stepParms", accelerator(perfParms={})),
    ("maxBatchSize", accelerator(maxBatchSize=0)),
    ("maxBatchSize", accelerator(maxBatchSize=1_000_000)),
    ("maxBatchSize", accelerator(maxBatchSize="8")),
    ("maxNumSeqs", accelerator(engine={"maxNumSeqs": 10**7})),
    ("accCount", accelerator(accCount=2**63 - 1)),
    ("atTokens", accelerator(atTokens=10**15)),
    ("acc", accelerator(acc="A" * 100_000)),
    ("alpha", accelerator(perfParms={"decodeParms": {"alpha": "9" * 400, "beta": "0"}})),
    ("alpha", accelerator(perfParms={"decodeParms": {"alpha": "-1", "beta": "0"}})),
    ("beta", accelerator(perfParms={"decodeParms": {"alpha": "1", "beta": "NaN"}})),
    ("accelerators", {"modelProfile": {"accelerators": []}}),
    ("accelerators", {"modelProfile": {"accelerators": 65 * accelerator()["modelProfile"]["accelerators"]}}),
    ("maxReplicas", {"maxReplicas": 2**31}),
    ("minReplicas", {"minReplicas": -1}),
    ("variantCost", {"variantCost": "1e999"}),
    ("modelID", {"modelID": ""}),
    ("modelID", {"modelID": "m" * 5000}),
    ("sloClassRef", {"sloClassRef": {"name": "c" * 300}}),
)  # fmt: skip
"""What the message must name, and a spec that the API server refuses."""


async def test_explain_has_a_text_for_fields(tmp_path: Path) -> None:
    """`kubectl explain va…` prints the type and the description that the manifest has."""
    async with installation.running(tmp_path) as cluster:

        async def discovered() -> bool:
            return "apis/llmd.ai/v1alpha1" in str(await cluster.get("/openapi/v3"))

        await until(discovered, what="the schema among those of the API server")
        for field in EXPLAINED:
            name = f"va.{field}" if field else "va"
            text = await cluster.kubectl("explain", name)
            _, _, said = text.partition("DESCRIPTION:")
            assert said.strip(), text
            assert "<empty>" not in said, text
        tree = await cluster.kubectl("explain", "va", "--recursive")
        assert "perSqrtRequest" in tree


async def test_schema_and_rules_refuse(tmp_path: Path) -> None:
    """Every odd spec is refused with 422 and its field or rule; what is good is created as it was written."""
    async with installation.running(tmp_path) as cluster:
        path = cluster.plane.kubeconfig("people", "admin", ["system:masters"])
        async with client.connected(path) as people:
            for number, (says, spec) in enumerate(REFUSED):
                with pytest.raises(errors.ApiError) as caught:
                    await people.request(
                        "POST", VARIANTS, body=worlds.variant(f"r{number}", **spec)
                    )
                assert caught.value.code == 422, (says, caught.value)
                assert says in str(caught.value), says
            item = worlds.variant("v", sclaeTargetRef={"name": "v"})
            with pytest.raises(errors.ApiError, match="sclaeTargetRef"):
                await people.request(
                    "POST", VARIANTS, body=item, query=(("fieldValidation", "Strict"),)
                )
            await people.request("POST", VARIANTS, body=worlds.variant("v"))
            spec = (await cluster.get(f"{VARIANTS}/v"))["spec"]
            (entry,) = spec["modelProfile"]["accelerators"]
            assert entry["maxBatchSize"] == 4
            # A spec that was good is not made bad by an update.
            with pytest.raises(errors.ApiError) as caught:
                await people.request(
                    "PATCH", f"{VARIANTS}/v", body={"spec": {"scaleTargetRef": {"name": "../x"}}},
                    content_type="application/merge-patch+json",
                )  # fmt: skip
            assert caught.value.code == 422


async def test_each_owns_its_fields(tmp_path: Path) -> None:
    """Who applies the spec and the adapter, who applies the status, never conflict nor undo each other."""
    async with installation.running(tmp_path) as cluster:
        await cluster.workload("v", 1)
        cluster.pages.finished["v-0"] = 0.0
        cluster.pages.load["v"] = 6.0
        item = worlds.variant("v")
        item["metadata"]["annotations"] = {
            "llmd.ai/metrics-endpoints": f"http://127.0.0.1:{cluster.pages.port}/pods/v-0"
        }
        file = tmp_path / "v.yaml"
        apply = ("apply", "--server-side", "--field-manager=people", "-f", str(file))
        file.write_text(yaml.safe_dump(item))
        await cluster.kubectl(*apply)
        async with cluster.replica("a") as replica:
            await until(cluster.sized, what="the decision", log=replica.log)
            item["spec"]["maxReplicas"] = 7
            file.write_text(yaml.safe_dump(item))
            await cluster.kubectl(*apply)
            text = await cluster.kubectl(
                "get", "va", "v", "-n", "team-a", "-o", "json", "--show-managed-fields"
            )
            now = json.loads(text)
            assert now["spec"]["maxReplicas"] == 7
            assert now["status"]["desiredOptimizedAlloc"]["numReplicas"] > 1
            owners = {
                entry["manager"]: (entry.get("subresource"), sorted(entry["fieldsV1"]))
                for entry in now["metadata"]["managedFields"]
            }
            assert owners["variant-adapter"] == ("status", ["f:status"])
            assert "f:status" not in owners["people"][1]
            assert set(owners) == {"people", "variant-adapter"}

            async def bounded() -> bool:
                status = (await cluster.get(f"{VARIANTS}/v"))["status"]
                return bool(status["observedGeneration"] == 2)

            await until(bounded, what="the generation after the change")
        wide = await cluster.kubectl("get", "va", "-A", "-o", "wide")
        assert "TARGET" in wide.splitlines()[0]
