"""explain, doctor and certs against an adapter that runs in the cluster in memory."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from adapter import cli
from adapter.commands import certs, explain, kubeconfig
from adapter.kube import errors
from adapter.tls.certificate_secret import OwnCertificates
from certs.rotation import Times
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api
from tests.fakes.cluster_world import API_SERVICE, API_SERVICES, CORE, SCALERS, SYSTEM, until

pytestmark = pytest.mark.virtual_time


async def command(*args: str) -> int:
    """Run a command as the command line does: the world answers it, and no time passes meanwhile."""
    return await asyncio.to_thread(cli.main, args)


async def test_explain_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people: load, target, what binds and what holds back; the same as JSON; all in a table."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        strict = {"scaleUp": {"tolerance": "0", "stabilizationWindowSeconds": 60}}
        world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v", behavior=strict))
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            capsys.readouterr()
            assert await command("explain", "team-a/v", "--url", endpoints.metrics_url) == 0
            text = capsys.readouterr().out
            assert "  target        2 x A100, decided" in text
            assert "req/min" in text
            assert "TTFT bounds a replica" in text
            assert "waits up to 60 s (behavior.scaleUp.stabilizationWindowSeconds)" in text
            assert await command("explain", "--url", endpoints.metrics_url) == 0
            header, row = [
                line for line in capsys.readouterr().out.splitlines() if not line.startswith("20")
            ]
            assert header.split() == ["VARIANT", "CURRENT", "TARGET", "WHY"]
            assert row.split()[:3] == ["team-a/v", "1", "2"]
            assert await command("explain", "team-a/none", "--url", endpoints.metrics_url) == 1
            assert "no variant team-a/none; there are team-a/v" in capsys.readouterr().err


async def test_explain_asks_the_leader_through_the_api_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Lease names the pod; its metrics port is forwarded, on loopback, with the caller's own rights."""
    async with worlds.running(tmp_path) as world:
        admin = await world.site.entrance("admin", user="")
        asked = ["explain", "team-a/v", "--kubeconfig", str(admin.kubeconfig)]
        assert await command(*asked) == 1
        assert "is the adapter installed? run variant-adapter doctor" in capsys.readouterr().err
        async with world.replica("pod-1_abcd1234") as (endpoints, _):
            await until(lambda: world.desired() == 1)
            capsys.readouterr()
            assert await command(*asked) == 1
            assert "error forwarding port 8080: Connection refused" in capsys.readouterr().err
            url = URL(endpoints.metrics_url)
            assert url.host is not None
            assert url.port is not None
            world.api.forwarded[SYSTEM, "pod-1", 8080] = (url.host, url.port)
            assert await command(*asked) == 0
            assert "  target        1 x A100" in capsys.readouterr().out
            assert await command("explain", "team-a/none", *asked[2:]) == 1
            assert "no variant team-a/none; there are team-a/v" in capsys.readouterr().err
        path = f"/api/v1/namespaces/{SYSTEM}/pods/pod-1/portforward"
        assert ("admin", "GET", path) in world.api.requests


async def test_explain_names_the_right_that_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who may read the Lease and forward no ports is told which verbs are missing."""
    rules = kubernetes_api.manifest_rules()
    async with worlds.running(tmp_path, rules=rules) as world:
        own = await world.site.entrance("own")
        async with world.replica("pod-1_abcd1234"):
            await until(lambda: world.desired() == 1)
            capsys.readouterr()
            assert await command("explain", "--kubeconfig", str(own.kubeconfig)) == 1
        said = capsys.readouterr().err
        assert "pods/pod-1/portforward: 403" in said
        assert "explain, top and ui need the verbs get and create on pods/portforward" in said


def test_a_person_without_a_right_is_not_told_to_grant_it_to_the_adapter() -> None:
    """The manifests would change nothing for who asks; forwarding a port has an advice of its own."""
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/variant-adapter"
    refused = kubeconfig.explained(errors.of_status(403, "403 forbidden", path=leases))
    assert refused == (
        "403 forbidden; have that right granted to you, or name another --kubeconfig or --context"
    )
    forward = f"/api/v1/namespaces/{SYSTEM}/pods/pod-1/portforward"
    assert "--url" in kubeconfig.explained(errors.of_status(403, "", path=forward))


@pytest.mark.parametrize("text", ["v", "a/b/c", "A/b", "../v", "a/"])
def test_explain_takes_namespace_and_name(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Anything else is a wrong call, with the form it takes."""
    with pytest.raises(SystemExit):
        cli.main(["explain", text])
    assert "must be NAMESPACE/NAME" in capsys.readouterr().err


def test_the_table_holds_refusals_too() -> None:
    """A variant that is left out has no numbers, but a problem."""
    refused = {"namespace": "n", "name": "bad", "outcome": "TargetNotFound", "problem": "none"}
    assert explain.overview({"variants": [refused]})[1].split() == ["n/bad", "-", "-", "none"]


async def findings(
    world: worlds.World, capsys: pytest.CaptureFixture[str], *args: str
) -> tuple[int, dict[str, list[str]]]:
    """Exit status, and what was found by level."""
    admin = await world.site.entrance("admin", user="")
    capsys.readouterr()
    code = await command("doctor", "--kubeconfig", str(admin.kubeconfig), *args)
    by_level: dict[str, list[str]] = {"ok": [], "warning": [], "ERROR": []}
    for line in capsys.readouterr().out.splitlines():
        level, _, rest = line.partition(" ")
        if level in by_level:
            by_level[level].append(rest.strip())
    return code, by_level


async def test_the_doctor_finds_nothing_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An installation as the manifests make it, with an HPA as the sample has it, has no error."""
    async with worlds.running(tmp_path) as world:
        exact = {name: {"tolerance": "0"} for name in ("scaleUp", "scaleDown")}
        world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v", behavior=exact))
        async with world.replica("a"):
            await until(lambda: world.desired() == 1)
            await until(world.ca_bundle)
            world.available()
            world.api.external = {"v": "1"}
            code, by_level = await findings(world, capsys)
    assert (by_level["warning"], by_level["ERROR"], code) == ([], [], 0)
    assert f"ServiceAccount {SYSTEM}/variant-adapter has its permissions" in by_level["ok"]
    assert "caBundle trusts the serving certificate" in by_level["ok"]
    assert "a leads" in by_level["ok"]
    assert "HorizontalPodAutoscaler team-a/v: reads inferno_desired_replicas = 1" in by_level["ok"]


async def test_the_doctor_finds_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each fault that is put in is found, with its fix, and the exit status says so."""
    rules = kubernetes_api.manifest_rules()
    async with worlds.running(tmp_path, rules=rules) as world:
        role = next(r for r in rules if r["kind"] == "ClusterRole")
        role["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["events"]]
        service = world.api.get(API_SERVICES, "apiservices", "", API_SERVICE)
        service["spec"]["service"] = {"namespace": "keda", "name": "keda-metrics", "port": 443}
        world.api.put(API_SERVICES, "apiservices", service)
        costs = worlds.manifests()[0]
        costs["data"]["A100"] = "{"
        world.api.put(CORE, "configmaps", costs)
        bad = worlds.scaler("v", high=20)
        bad["spec"]["metrics"][0]["external"]["target"] = {"type": "Value", "value": "1"}
        world.api.put(SCALERS, "horizontalpodautoscalers", bad)
        world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("nobody"))
        code, by_level = await findings(world, capsys, "--prometheus", "http://127.0.0.1:9")
    assert code == 1
    text = "\n".join(by_level["ERROR"])
    for part in (
        "belongs to Service keda/keda-metrics",
        f"no Lease {SYSTEM}/variant-adapter: the adapter has never started",
        "may not: create events",
        "accelerator-unit-costs: data.A100: not valid JSON",
        "target.type Value multiplies",
        "selects variant_name=nobody, which does not exist",
        "Prometheus http://127.0.0.1:9: Connection refused",
    ):
        assert part in text
    assert any("ignores changes of up to 10 %" in item for item in by_level["warning"])


async def test_certificates_are_shown_and_rotated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `rotate` the next authority is trusted first, signs next, and the old one goes at last."""
    own = OwnCertificates(namespace=SYSTEM, times=Times(overlap=timedelta(seconds=3)))
    async with worlds.running(tmp_path) as world:
        admin = await world.site.entrance("admin", user="")
        asked = ["--kubeconfig", str(admin.kubeconfig)]

        class WorldTime(datetime):
            """The command has no clock of its own: it is given the world's."""

            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.fromtimestamp(world.clock.time(), tz)

        monkeypatch.setattr(certs, "datetime", WorldTime)

        async def shown(action: str) -> dict[str, Any]:
            capsys.readouterr()
            assert await command("certs", action, *asked, "--json") == 0
            text = capsys.readouterr().out
            # The adapters that run in this process may log before and after.
            status: dict[str, Any]
            status, _ = json.JSONDecoder().raw_decode(text[text.index("{\n") :])
            return status

        assert await command("certs", "show", *asked) == 1
        assert "holds no certificate" in capsys.readouterr().err
        world.load["v"] = 60.0
        async with (
            world.replica("a", own=own) as (endpoints, _),
            world.replica("b", own=own) as (b, _),
        ):
            await until(lambda: world.desired() == 2 and b.loop.states["team-a/v"].desired == 2)
            await until(world.ca_bundle)
            first = await shown("show")
            assert [item["what"] for item in first["certificates"]] == [
                "serving certificate",
                "authority",
            ]
            assert first["certificates"][1]["trusted"] is True
            rotated = await shown("rotate")
            assert rotated["certificates"][-1]["what"] == "next authority"
            wanted = rotated["certificates"][-1]["fingerprint"]
            done = False
            async with asyncio.timeout(worlds.HANG_SECONDS):
                while not done:
                    # Whoever trusts the APIService's bundle is never turned away, by no replica.
                    for _ in range(5):
                        for replica in (endpoints, b):
                            # A target may lapse where the machine is busy: to be let in is what counts.
                            assert await world.metric(replica) in (["2"], [])
                        await asyncio.sleep(0.1)
                    now = await shown("show")
                    kinds = [item["what"] for item in now["certificates"]]
                    done = (
                        kinds == ["serving certificate", "authority"]
                        and now["certificates"][1]["fingerprint"] == wanted
                    )
