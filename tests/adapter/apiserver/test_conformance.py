"""The recorded conformance cases against the real server, in a process of its own, over TLS.

Identities come from a stand-in for the Kubernetes API here; tests/e2e runs the same cases with a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import ssl
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from tests.fakes import kubernetes_stand_in as stand_ins

FIXTURES = Path(__file__).parents[2] / "conformance" / "cases.json"
CASES: list[dict[str, Any]] = json.loads(FIXTURES.read_text())["cases"]
TOKEN = "a-good-token"
HANG_SECONDS = 300.0
"""After which a wait for a process counts as endless: it decides nothing else."""
ATTEMPTS = 5
"""Attempts of which one must be within a case's `max_ms`: a pause of the machine slows only one."""


@dataclass
class Conformance:
    """The server under test."""

    url: str
    folder: Path
    token: str = TOKEN
    ca: str = "serving-ca"
    stand_in: stand_ins.StandIn = field(default_factory=lambda: stand_ins.StandIn(config={}))

    def context(self, certificate: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / f"{self.ca}.crt"))
        if certificate is not None:
            context.load_cert_chain(
                self.folder / f"{certificate}.crt", self.folder / f"{certificate}.key"
            )
        return context


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Conformance]:
    certificates = stand_ins.certificates(folder)
    async with stand_ins.running(certificates) as (stand_in, kubeconfig):
        user = "system:serviceaccount:default:reader"
        stand_in.tokens[TOKEN] = {
            "username": user,
            "groups": ["system:serviceaccounts"],
            "uid": "7",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.fakes.conformance_server",
            "--fixtures", str(FIXTURES), "--kubeconfig", str(kubeconfig),
            "--cert", str(folder / "serving.crt"), "--key", str(folder / "serving.key"),
            "--port", "0",
            cwd=FIXTURES.parents[2], stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), HANG_SECONDS)).decode()
            assert line.startswith("serving on "), line
            yield Conformance(line.split()[-1], folder, stand_in=stand_in)
        finally:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), HANG_SECONDS) == 0


def differences(wanted: Any, got: Any, at: str = "$") -> list[str]:  # noqa: PLR0911 - one per form
    """Where a JSON value is not what was recorded: objects may hold more, texts may be patterns."""
    if isinstance(wanted, dict):
        if "$contains" in wanted:
            return [
                f"{at}: nothing like {item}"
                for item in wanted["$contains"]
                if all(differences(item, other) for other in got or [])
            ]
        if "$len" in wanted:
            return [] if len(got) == wanted["$len"] else [f"{at}: {len(got)} long"]
        if not isinstance(got, dict):
            return [f"{at}: {got!r} is no object"]
        missing = [f"{at}.{key}: missing" for key in wanted if key not in got]
        return missing + [
            text
            for key, item in wanted.items()
            if key in got
            for text in differences(item, got[key], f"{at}.{key}")
        ]
    if isinstance(wanted, list):
        if not isinstance(got, list) or len(got) != len(wanted):
            return [f"{at}: {got!r} instead of {len(wanted)} elements"]
        pairs = zip(wanted, got, strict=True)
        return [
            text
            for place, (item, other) in enumerate(pairs)
            for text in differences(item, other, f"{at}[{place}]")
        ]
    if isinstance(wanted, str) and wanted.startswith("re:"):
        good = isinstance(got, str) and re.fullmatch(wanted[3:], got, re.DOTALL)
        return [] if good else [f"{at}: {got!r} is not like {wanted}"]
    return [] if wanted == got and type(wanted) is type(got) else [f"{at}: {got!r}, not {wanted!r}"]


async def failures(case: dict[str, Any], server: Conformance) -> list[str]:
    """What is wrong with the answer to one case."""
    for _ in range(ATTEMPTS):
        started = time.monotonic()
        problems = await _failures(case, server)
        took = time.monotonic() - started
        if took <= case["expect"].get("max_ms", math.inf) / 1000:
            return problems
    return [*problems, "too slow"]


async def _failures(case: dict[str, Any], server: Conformance) -> list[str]:
    identity, wanted = case.get("identity", "none"), case["expect"]
    given = case.get("headers", [])
    headers = CIMultiDict(given.items() if isinstance(given, dict) else map(tuple, given))
    certificate = None
    if identity.startswith("cert:"):
        certificate = identity[5:]
    elif identity.startswith("fp:"):
        certificate = "fp"
        user, _, groups = identity[3:].partition("|")
        headers.add("X-Remote-User", user)
        for group in filter(None, groups.split(",")):
            headers.add("X-Remote-Group", group)
    elif identity == "token":
        headers.add("Authorization", f"Bearer {server.token}")
    try:
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                case["method"],
                server.url + case["path"],
                headers=headers,
                data=case.get("body_send"),
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
                ssl=server.context(certificate),
                allow_redirects=False,
            ) as response,
        ):
            body = await response.read()
    except (OSError, aiohttp.ClientError) as error:
        return [] if wanted.get("tls_refused_ok") else [f"no answer: {error!r}"]
    text = body.decode()
    problems = []
    statuses = wanted["status"] if isinstance(wanted["status"], list) else [wanted["status"]]
    if response.status not in statuses:
        problems.append(f"status {response.status}: {text[:200]}")
    for name, value in wanted.get("headers", {}).items():
        if name not in response.headers:
            problems.append(f"header {name} is missing")
        elif value is not None:
            problems += differences(value, response.headers[name], name)
    problems += [
        f"header {name} is there"
        for name in wanted.get("no_headers", [])
        if name in response.headers
    ]
    if "json" in wanted:
        problems += differences(wanted["json"], json.loads(body))
    if "body" in wanted and text != wanted["body"]:
        problems.append(f"body {text!r}")
    problems += [f"body lacks {part!r}" for part in wanted.get("body_has", []) if part not in text]
    return problems


async def test_the_recorded_cases(tmp_path: Path) -> None:
    """Every recorded request is answered as recorded, but for what the contract leaves open."""
    async with serving(tmp_path) as server:
        wrong = {
            case["id"]: problems for case in CASES if (problems := await failures(case, server))
        }
    assert wrong == {}
    assert len(CASES) > 50


async def test_reviews_say_what_the_official_library_says(tmp_path: Path) -> None:
    """Verb list, the metric as resource, the whole identity; the selector's terms where rights need them."""
    async with serving(tmp_path) as server, aiohttp.ClientSession() as session:
        path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/team-a/sel"
        headers = {
            "X-Remote-User": "eve",
            "X-Remote-Group": "team-a",
            "X-Remote-Extra-Acme.com%2fproject": "p1",
        }
        async with session.get(
            f"{server.url}{path}?labelSelector=env+in+%28prod%2Cdev%29%2C%21num",
            headers=headers,
            ssl=server.context("fp"),
        ) as response:
            assert response.status == 200
            assert [item["value"] for item in (await response.json())["items"]] == ["1", "2", "3"]
        whole: dict[str, Any] = {
            "user": "eve",
            "groups": ["team-a", "system:authenticated"],
            "extra": {"acme.com/project": ["p1"]},
            "resourceAttributes": {
                "namespace": "team-a",
                "verb": "list",
                "group": "external.metrics.k8s.io",
                "version": "v1beta1",
                "resource": "sel",
            },
        }
        assert server.stand_in.reviews[-1] == whole

        # Rights for these labels only: the review without them says no, the one with them decides.
        server.stand_in.needs_selector = True
        headers["X-Remote-User"] = "bob"
        async with session.get(
            f"{server.url}{path}?labelSelector=env+in+%28prod%2Cdev%29%2C%21num",
            headers=headers,
            ssl=server.context("fp"),
        ) as response:
            assert response.status == 200
        without = {**whole, "user": "bob"}
        requirements = [
            {"key": "env", "operator": "In", "values": ["dev", "prod"]},
            {"key": "num", "operator": "DoesNotExist"},
        ]
        attributes = {
            **whole["resourceAttributes"],
            "labelSelector": {"requirements": requirements},
        }
        assert server.stand_in.reviews[-2:] == [
            without, {**without, "resourceAttributes": attributes},
        ]  # fmt: skip


async def test_the_real_kubectl(tmp_path: Path) -> None:
    """The client that people use reads discovery and values from the server as from any API."""
    kubectl = Path(sys.executable).with_name("kubectl")
    if not kubectl.exists():
        pytest.skip("kubectl is not installed beside python")

    async with serving(tmp_path) as server:
        certificate = tmp_path / "admin"
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": server.url, "certificate-authority": str(tmp_path / "serving-ca.crt"),
            }}],
            "users": [{"name": "u", "user": {
                "client-certificate": f"{certificate}.crt", "client-key": f"{certificate}.key",
            }}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        (tmp_path / "client.kubeconfig").write_text(json.dumps(config))

        async def run(*words: str) -> str:
            process = await asyncio.create_subprocess_exec(
                str(kubectl), "--kubeconfig", str(tmp_path / "client.kubeconfig"),
                "--cache-dir", str(tmp_path / "cache"), *words,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, err = await asyncio.wait_for(process.communicate(), HANG_SECONDS)
            assert process.returncode == 0, err.decode()
            return out.decode()

        resources = await run("api-resources", "--api-group", "external.metrics.k8s.io")
        assert "my-external-metric" in resources
        assert "external.metrics.k8s.io/v1beta1" in resources
        path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/sel?labelSelector=tier%3Da"
        values = json.loads(await run("get", "--raw", path))
        assert [item["value"] for item in values["items"]] == ["1"]
        assert "ok" in await run("get", "--raw", "/readyz")
