"""The release workflow and the Dockerfile: both architectures, SBOM, provenance, and one version."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/release.yaml").read_text())


def steps(job: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = WORKFLOW["jobs"][job]["steps"]
    return listed


def test_an_image_of_both_architectures_with_sbom_and_provenance() -> None:
    """Built from the tag after the checks, and its digest is attested."""
    (build,) = [
        step["with"] for step in steps("image") if step.get("uses", "").startswith("docker/build")
    ]
    assert build["platforms"] == "linux/amd64,linux/arm64"
    assert build["sbom"] is True
    assert build["provenance"] == "mode=max"
    assert any("attest-build-provenance" in step.get("uses", "") for step in steps("image"))
    arguments = {line.partition("=")[0] for line in build["build-args"].splitlines()}
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert arguments <= set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    assert WORKFLOW["jobs"]["image"]["needs"] == "check"


def test_jobs_may_do_what_they_need() -> None:
    """Nothing may write by default, and scripts interpolate nothing that somebody else chooses."""
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert WORKFLOW["jobs"]["image"]["permissions"]["contents"] == "read"
    for job in WORKFLOW["jobs"]:
        for step in steps(job):
            assert "${{" not in step.get("run", ""), step


def test_the_image_says_its_version() -> None:
    """By default that of the package."""
    version = re.search(r"^ARG VERSION=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert version is not None
    assert version[1] == metadata.version("variant-adapter")


def test_the_digest_reaches_the_values_of_the_chart() -> None:
    """The script's patterns are lines of values.yaml."""
    (script,) = [step["run"] for step in steps("chart") if "helm package" in step.get("run", "")]
    lines = (ROOT / "charts/variant-adapter/values.yaml").read_text().splitlines()
    for pattern in re.findall(r"s\|\^(.*?)\$\|", script):
        assert pattern.replace('\\"', '"') in lines, pattern
