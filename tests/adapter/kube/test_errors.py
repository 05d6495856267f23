"""Statuses become classes, each class its advice, and Retry-After a pause."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapter.kube import advice, client, errors, informer
from adapter.kube.bodies import pages
from certs.authority import Authority, kubeconfig
from tests.fakes import virtual_time

PATH = "/apis/llmd.ai/v1alpha1/variantautoscalings"
PODS = "/api/v1/pods"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, errors.ApiError),
        (401, errors.Unauthorized),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (410, errors.Gone),
        (422, errors.ApiError),
        (429, errors.Throttled),
        (500, errors.Unavailable),
        (503, errors.Unavailable),
        (504, errors.Unavailable),
    ],
)
def test_a_status_is_a_class(code: int, kind: type[errors.ApiError]) -> None:
    """Each HTTP status has one class, which keeps status and path."""
    error = errors.of_status(code, "said", path=PODS)
    assert (type(error), error.code, error.path, str(error)) == (kind, code, PODS, "said")


@pytest.mark.parametrize(
    ("code", "header", "seconds"),
    [
        (429, "7", 7.0),
        (503, "1", 1.0),
        (429, None, 0.0),
        (429, "soon", 0.0),
        (429, "-1", 0.0),
        (429, "Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
    ],
)
def test_throttling_carries_its_pause(code: int, header: str | None, seconds: float) -> None:
    """429, and 503 with Retry-After, hold the seconds to wait; 0 where the header is no number."""
    error = errors.of_status(code, "", path=PODS, retry_after=header)
    assert isinstance(error, errors.Throttled)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("code", "path", "said"),
    [
        (403, PODS, "manifests/base/rbac.yaml"),
        (403, f"{PATH}/v/status", "manifests/base/rbac.yaml"),
        (403, "/apis/llmd.ai/v1alpha1/namespaces/n/variantautoscalings/v", "limited/owners.yaml"),
        (
            403,
            "/api/v1/namespaces/kube-system/configmaps",
            "extension-apiserver-authentication-reader",
        ),
        (401, PODS, "renew the credentials"),
        (404, PATH, "kubectl apply -k manifests/crd"),
        (404, f"{PATH}/v/status", ""),
        (404, PODS, ""),
        (404, "/apis/coordination.k8s.io/v1/namespaces/n/leases/l", "variant-adapter doctor"),
        (503, PATH, ""),
    ],
)
def test_advice_stands_in_one_table(code: int, path: str, said: str) -> None:
    """Class and path of an error decide which advice is given."""
    error = errors.of_status(code, "no", path=path)
    assert said in advice.of(error)
    assert bool(said) is bool(advice.of(error))
    assert advice.explained(error) == (f"no; {advice.of(error)}" if said else "no")
    assert advice.of(None) == ""


async def test_no_answer_is_unavailable(tmp_path: Path) -> None:
    """A connection that is refused has no status, and may work later."""
    authority = Authority.create("ca")
    config = kubeconfig(
        "https://127.0.0.1:9", authority.cert_pem, authority.issue_client("someone", [])
    )
    (tmp_path / "kubeconfig").write_text(config)
    async with client.connected(tmp_path / "kubeconfig") as cluster:
        with pytest.raises(errors.Unavailable) as caught:
            await cluster.request("GET", PODS)
    assert (caught.value.code, caught.value.path) == (0, PODS)


class Throttling:
    """A source that asks for a pause, once."""

    def __init__(self, retry_after: str) -> None:
        self.retry_after = retry_after
        self.listed_at: list[float] = []

    async def list_pages(
        self, path: str, query: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[pages.Page]:
        assert query == ()
        self.listed_at.append(asyncio.get_running_loop().time())
        if len(self.listed_at) == 1:
            raise errors.of_status(429, "slow down", path=path, retry_after=self.retry_after)
        yield pages.Page([], "1")

    async def watch_objects(
        self, path: str, version: str, query: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[dict[str, Any]]:
        assert (path, version, query) == (PODS, "1", ())
        await asyncio.sleep(10_000)
        yield {}


@pytest.mark.parametrize(("header", "pause"), [("12", 12.0), ("0", 0.5), ("3600", 30.0)])
def test_an_informer_waits_for_retry_after(header: str, pause: float) -> None:
    """Retry-After is waited for, from the usual back-off up to its cap."""

    async def main() -> list[float]:
        source = Throttling(header)
        follower = informer.Informer(source, PODS, jitter=lambda: 1.0)
        task = asyncio.create_task(follower.run())
        await follower.synced.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return source.listed_at

    first, second = virtual_time.run(main())
    assert second - first == pytest.approx(pause)


async def test_no_connection_is_said_without_objects_of_python() -> None:
    """Host, port and the system's words are left of aiohttp's sentence."""
    with pytest.raises(aiohttp.ClientConnectorError) as caught:
        async with aiohttp.ClientSession() as session:
            await session.get("https://127.0.0.1:1/x", ssl=ssl.create_default_context())
    error = errors.no_answer(caught.value, path="/version")
    assert not error.answered
    assert str(error).startswith("/version: Cannot connect to host 127.0.0.1:1 [")
    assert str(errors.no_answer(TimeoutError(), path="/version")) == "/version: TimeoutError"
