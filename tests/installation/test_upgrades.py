"""Installing, upgrading and uninstalling by kustomize, as far as the manifests alone decide it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from adapter import installation
from certs.authority import Authority
from tests.test_manifests import BUILT, MANIFESTS, OTHERS, built

VERSION = metadata.version("variant-adapter")
LABELS = {"app.kubernetes.io/part-of": "variant-adapter", "app.kubernetes.io/version": VERSION}


def identity(item: Mapping[str, Any]) -> tuple[str, str, str]:
    """Kind, namespace and name."""
    metadata = item["metadata"]
    return item["kind"], metadata.get("namespace", ""), metadata["name"]


@pytest.mark.parametrize("folder", BUILT, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_one_call_applies_a_folder_to_a_cluster_that_is_new(folder: Path) -> None:
    """No object is of a kind that the same folder defines: kubectl looks all kinds up first."""
    items = built(folder)
    defined = {
        item["spec"]["names"]["kind"]
        for item in items
        if item["kind"] == "CustomResourceDefinition"
    }
    assert not defined & {item["kind"] for item in items}


OURS = [path for path in BUILT if path.name != "emulated"]


@pytest.mark.parametrize("folder", OURS, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_every_object_says_its_version(folder: Path) -> None:
    """That of the package; it is not part of a selector, which an upgrade could not change."""
    for item in built(folder):
        labels = item["metadata"].get("labels") or {}
        assert labels.items() >= LABELS.items(), (
            f"{identity(item)}: see labels of the other folders"
        )
        selector = json.dumps((item.get("spec") or {}).get("selector"))
        assert "app.kubernetes.io/version" not in selector


def test_the_images_are_those_of_the_version() -> None:
    """Every container of the adapter's image has the package's version as its tag."""
    for folder in (MANIFESTS / "base", MANIFESTS / "overlays/emulated"):
        for item in built(folder):
            if item["kind"] == "Deployment":
                spec = item["spec"]["template"]["spec"]
                for container in [*spec["containers"], *spec.get("initContainers", ())]:
                    assert container["image"] == f"variant-adapter:{VERSION}"


def test_uninstalling_keeps_what_people_made() -> None:
    """CRD and namespace stay, with variants and prices; all else of any overlay goes."""
    gone = {identity(item) for item in built(MANIFESTS / "uninstall")}
    kept = {
        ("CustomResourceDefinition", "", "variantautoscalings.llmd.ai"),
        ("Namespace", "", installation.SYSTEM),
        # One of that name may be another adapter's: it goes by its label.
        ("APIService", "", installation.API_SERVICE),
    }
    installed = {
        identity(item) for folder in OURS for item in built(folder) if item["kind"] not in OTHERS
    }
    assert installed - kept <= gone
    assert not gone & kept


def test_the_emulated_variant_is_made_once_its_crd_is_there(tmp_path: Path) -> None:
    """The script waits for the CRD, creates the object, and leaves one that exists as it is."""
    bodies, answers = [], [404, 201, 409]

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in the base class
            """Be silent."""

    (tmp_path / "namespace").write_text("llm-d-sim")
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_bytes(Authority.create("ca").cert_pem)
    folder = MANIFESTS / "overlays/emulated"
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            "ACCOUNT_DIR": str(tmp_path),
            "API_SERVER": f"http://127.0.0.1:{server.server_port}",
            "PAUSE_SECONDS": "0.01",
        }
        command = [sys.executable, str(folder / "create.py"), str(folder / "variant.yaml")]
        for expected in ("created", "exists"):
            completed = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True, timeout=300
            )
            assert completed.stdout.splitlines()[-1] == expected
        server.shutdown()
    text = (folder / "variant.yaml").read_bytes()
    path = "/apis/llmd.ai/v1alpha1/namespaces/llm-d-sim/variantautoscalings"
    assert bodies == [(path, text)] * 3
