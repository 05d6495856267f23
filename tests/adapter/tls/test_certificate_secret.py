"""The Secret, the files and the caBundle, with several replicas and somebody else's APIService."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog

from adapter.kube.client import connected
from adapter.tls import certificate_secret
from adapter.tls.certificate_secret import CertificateKeeper, OwnCertificates
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import API_SERVICE, API_SERVICES, CORE, SYSTEM

OWN = OwnCertificates(namespace=SYSTEM)


async def test_replicas_that_start_together_have_one_certificate(tmp_path: Path) -> None:
    """The first to write the Secret wins; all serve the same."""
    async with worlds.running(tmp_path) as world:
        entrance = await world.site.entrance("a")
        async with connected(entrance.kubeconfig) as api:
            keepers = [
                CertificateKeeper(api, OWN, folder=tmp_path / str(number), leads=lambda: False)
                for number in range(4)
            ]
            files = await asyncio.gather(*(keeper.prepare() for keeper in keepers))
        certificates = {certificate.read_bytes() for certificate, _ in files}
        keys = {key.read_bytes() for _, key in files}
        assert (len(certificates), len(keys)) == (1, 1)
        assert files[0][1].stat().st_mode & 0o077 == 0
        assert len(world.api.all(CORE, "secrets")) == 1


async def test_somebody_elses_api_service_is_left_alone(tmp_path: Path) -> None:
    """KEDA's registration keeps its bundle; ours gets it only from the leader."""
    async with worlds.running(tmp_path) as world:
        entrance = await world.site.entrance("a")
        leads = False
        async with connected(entrance.kubeconfig) as api:
            keeper = CertificateKeeper(api, OWN, folder=tmp_path / "a", leads=lambda: leads)
            await keeper.step()
            assert world.ca_bundle() == b""
            leads = True
            service = world.api.get(API_SERVICES, "apiservices", "", API_SERVICE)
            foreign = {"namespace": "keda", "name": "keda-metrics", "port": 443}
            theirs = {**service, "spec": {**service["spec"], "service": foreign}}
            world.api.put(API_SERVICES, "apiservices", theirs)
            await keeper.step()
            assert world.ca_bundle() == b""
            world.api.put(API_SERVICES, "apiservices", service)
            await keeper.step()
            assert world.ca_bundle().startswith(b"-----BEGIN CERTIFICATE-----")
            assert not world.api.denied


@pytest.mark.parametrize("broken", [{}, {"tls.crt": "bm90aGluZw=="}, {"signing.key": "%%%"}])
async def test_an_unusable_secret_is_replaced(tmp_path: Path, broken: dict[str, str]) -> None:
    """Whatever somebody wrote there, a usable certificate is served in the end."""
    async with worlds.running(tmp_path) as world:
        item = {"metadata": {"name": OWN.secret, "namespace": SYSTEM}, "data": broken}
        world.api.put(CORE, "secrets", item)
        entrance = await world.site.entrance("a")
        async with connected(entrance.kubeconfig) as api:
            keeper = CertificateKeeper(api, OWN, folder=tmp_path / "a", leads=lambda: True)
            certificate, _ = await keeper.prepare()
        assert certificate.read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")
        assert "signing.crt" in world.api.get(CORE, "secrets", SYSTEM, OWN.secret)["data"]


@pytest.mark.parametrize(("registered", "level"), [(True, "warning"), (False, "info")])
async def test_somebody_elses_api_service_is_a_fault_only_where_ours_is_needed(
    tmp_path: Path, *, registered: bool, level: str
) -> None:
    """Beside KEDA it is as it should be; either way it is logged once, however often it is seen."""
    own = OwnCertificates(namespace=SYSTEM, registered=registered)
    async with worlds.running(tmp_path) as world:
        service = world.api.get(API_SERVICES, "apiservices", "", API_SERVICE)
        foreign = {**service["spec"], "service": {"namespace": "keda", "name": "keda-metrics"}}
        world.api.put(API_SERVICES, "apiservices", {**service, "spec": foreign})
        entrance = await world.site.entrance("a")
        async with connected(entrance.kubeconfig) as api:
            keeper = CertificateKeeper(api, own, folder=tmp_path / "a", leads=lambda: True)
            with structlog.testing.capture_logs() as logs:
                for _ in range(3):
                    assert await keeper._attempt()
    said = [log["log_level"] for log in logs if log["event"].startswith("APIService belongs")]
    assert said == [level]


async def test_the_former_authority_stays_until_the_new_certificate_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its files could not be written for a time, the bundle changes in the same sync."""
    monkeypatch.setattr(certificate_secret, "RELOAD_SECONDS", 60.0)
    async with worlds.running(tmp_path) as world:
        entrance = await world.site.entrance("a")
        async with connected(entrance.kubeconfig) as api:
            keeper = CertificateKeeper(api, OWN, folder=tmp_path / "a", leads=lambda: True)
            certificate, _ = await keeper.prepare()
            now, former = certificate.read_bytes(), "Zm9ybWVy"
            certificate.write_bytes(b"former")
            service = world.api.get(API_SERVICES, "apiservices", "", API_SERVICE)
            theirs = {**service, "spec": {**service["spec"], "caBundle": former}}
            world.api.put(API_SERVICES, "apiservices", theirs)
            syncing = asyncio.create_task(keeper.step())
            await asyncio.wait([syncing], timeout=2)
            assert world.ca_bundle() == b"former"
            syncing.cancel()
            await asyncio.wait([syncing])
            certificate.write_bytes(now)
            await keeper.step()
            assert world.ca_bundle().startswith(b"-----BEGIN CERTIFICATE-----")
