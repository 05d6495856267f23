"""The Helm chart: values, schema and templates fit together, and it makes what kustomize makes."""

from __future__ import annotations

import copy
import functools
import json
import operator
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from adapter import cli, installation
from adapter.resources import inputs
from tests.test_manifests import MANIFESTS, built

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/variant-adapter"
TEMPLATES = sorted(path for path in (CHART / "templates").iterdir())


def helm() -> list[str] | None:
    """The program, else Helm's own library, of which there are wheels for few platforms."""
    program = shutil.which("helm", path=os.environ.get("HELM_PATH", os.environ["PATH"]))
    if program is not None:
        return [program]
    if util.find_spec("helm_python") is not None:
        return [sys.executable, "-P", str(Path(__file__).with_name("helm_library.py"))]
    return None


HELM = helm()
needs_helm = pytest.mark.skipif(
    HELM is None,
    reason="no helm on PATH, nor in the folder that HELM_PATH names, nor the package helm-python-sdk",
)

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())

OVERLAYS = {
    "base": (),
    "overlays/limited": ("limited.enabled=true",),
    "overlays/actuate": ("actuate.enabled=true",),
    "overlays/cert-manager": ("certManager.enabled=true",),
    "overlays/monitoring": ("monitoring.enabled=true",),
    "overlays/delegation": ("delegation.enabled=true",),
    "overlays/advisory": ("actuate.default=none", "apiService.enabled=false"),
    "overlays/keda": ("keda.enabled=true",),
}
"""Values that stand for a folder of the manifests."""

OVERLAYS = {folder: OVERLAYS[folder] for folder in OVERLAYS if (MANIFESTS / folder).is_dir()}

EVERYTHING = tuple(value for values in OVERLAYS.values() for value in values)


def leaves(values: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Paths of all values that are no objects with keys of their own."""
    if not isinstance(values, dict) or not values:
        return {path}
    if path and "properties" not in at(SCHEMA, path):
        return {path}
    return set().union(*(leaves(value, (*path, key)) for key, value in values.items()))


def at(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    part: dict[str, Any] = functools.reduce(
        operator.getitem, [key for name in path for key in ("properties", name)], schema
    )
    return part


def schema_leaves(schema: dict[str, Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if "properties" not in schema:
        return {path}
    return set().union(
        *(schema_leaves(item, (*path, key)) for key, item in schema["properties"].items())
    )


# What needs no helm.


def test_the_chart_is_made_of_the_manifests() -> None:
    """Templates that are manifests, CRD, dashboard and Chart.yaml are as make_chart.py writes them."""
    completed = subprocess.run(
        [sys.executable, "-P", "scripts/make_chart.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_versions_are_one() -> None:
    """Chart, application, CRD and package."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    crd = yaml.safe_load((CHART / "files/crd.yaml").read_text())
    version = metadata.version("variant-adapter")
    assert chart["version"] == chart["appVersion"] == version
    assert crd["metadata"]["labels"]["app.kubernetes.io/version"] == version
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_schema_accepts_the_values_and_no_others() -> None:
    """The defaults are valid; a misspelled value, a wrong type and `scale` without its right are not."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)
    for path, value in (
        (("limited", "enable"), True),
        (("replicas",), 0),
        (("replicas",), "2"),
        (("extraArgs",), ["serve"]),
        (("actuate", "default"), "scale"),
        (("actuate", "default"), "off"),
        (("delegation", "url"), "http://keda"),
        (("image", "repository"), "a/b:1.0"),
        (("prices",), {"H100": {"device": "x", "cost": 120}}),
    ):
        changed = copy.deepcopy(VALUES)
        functools.reduce(operator.getitem, path[:-1], changed)[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(changed, SCHEMA)


def test_templates_values_and_schema_name_the_same() -> None:
    """Every value that a template uses is in values.yaml and in the schema, and none is there for nothing."""
    used = set()
    for path in TEMPLATES:
        for name in re.findall(r"\.Values\.([A-Za-z0-9.]+)", path.read_text()):
            used.add(tuple(name.rstrip(".").split(".")))
    given = leaves(VALUES)
    assert used == given
    assert schema_leaves(SCHEMA) == given
    for value in given:
        assert at(SCHEMA, value).get("description"), value


def test_comments_explain_the_values() -> None:
    """Every overlay of the manifests is a value, or is about a cluster to try."""
    overlays = {f"overlays/{path.name}" for path in (MANIFESTS / "overlays").iterdir()}
    assert overlays - {"overlays/emulated"} == OVERLAYS.keys() - {"base"}


NOTES = (CHART / "templates/NOTES.txt").read_text()


def commands(notes: str) -> list[list[str]]:
    """The commands of the notes, as words."""
    return [shlex.split(line) for line in re.findall(r"^  (\S.*)$", notes, re.MULTILINE)]


def test_the_commands_of_the_notes_are_commands() -> None:
    """Those of the adapter have such flags, and files and values that are named are there."""
    plain = re.sub(r"\{\{-? ?(if|else|end).*?\}\}", "", NOTES)
    written = commands(re.sub(r"\{\{.*?\}\}", "llm", plain))
    assert {words[0] for words in written} == {"variant-adapter", "kubectl", "helm"}
    for words in written:
        if words[0] == "variant-adapter":
            cli.parse(words[1:])
    for setting in re.findall(r"--set (\S+)=", NOTES):
        assert tuple(setting.split(".")) in leaves(VALUES)
    for path in re.findall(r"(?:manifests|docs)/\S+\.(?:yaml|md)", NOTES):
        assert (ROOT / path).exists(), path


# What needs helm.


@pytest.mark.skipif(
    util.find_spec("helm_python") is None,
    reason="no package helm-python-sdk; the program gives notes of an installation alone",
)
@pytest.mark.parametrize("folder", OVERLAYS)
def test_notes_say_what_is_to_be_done(folder: str) -> None:
    """Every overlay has whole sentences and its own next steps."""
    sets = [word for value in OVERLAYS[folder] for word in ("--set", value)]
    library = str(Path(__file__).with_name("helm_library.py"))
    completed = subprocess.run(
        [sys.executable, "-P", library, "notes", "variant-adapter", str(CHART), "--namespace", "llm",
         *sets, "--values", "-"],
        input="", capture_output=True, text=True, check=True,
    )  # fmt: skip
    notes = completed.stdout
    assert "{{" not in notes
    assert "<no value>" not in notes
    assert ["variant-adapter", "doctor", "--config-namespace", "llm"] in commands(notes)
    assert ("compare --since" in notes) == (folder == "overlays/advisory")
    assert ("create secret generic variant-adapter-keda-ca" in notes) == (folder == "overlays/keda")
    served_by_others = folder in {"overlays/advisory", "overlays/keda"}
    assert ("The APIService is not this release's" in notes) == served_by_others


def rendered(
    *values: str, namespace: str = installation.SYSTEM, file: Any = None
) -> list[dict[str, Any]]:
    """Objects that `helm template` makes of values, and of a file of values."""
    assert HELM is not None
    sets = [word for value in values for word in ("--set", value)]
    command = [*HELM, "template", "variant-adapter", str(CHART), "--namespace", namespace, *sets]
    completed = subprocess.run(
        [*command, "--values", "-"],
        input=yaml.safe_dump(file or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    return [item for item in yaml.safe_load_all(completed.stdout) if item]


HELMS = {"app.kubernetes.io/managed-by", "helm.sh/chart"}


def comparable(items: Any) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Objects by kind, namespace and name, without Helm's own labels; Helm makes no Namespace."""
    objects = {}
    for item in items:
        one = copy.deepcopy(item)
        about = one["metadata"]
        about["labels"] = {k: v for k, v in about["labels"].items() if k not in HELMS}
        key = (one["kind"], about.get("namespace", ""), about["name"])
        assert key not in objects
        if one["kind"] == "ConfigMap":
            one["data"] = {name: text.rstrip() for name, text in (one.get("data") or {}).items()}
        if one["kind"] != "Namespace":
            objects[key] = one
    return objects


@needs_helm
@pytest.mark.parametrize("folder", OVERLAYS)
def test_helm_makes_what_kustomize_makes(folder: str) -> None:
    """The same objects with the same contents, for the base and for every overlay."""
    ours, theirs = comparable(rendered(*OVERLAYS[folder])), comparable(built(MANIFESTS / folder))
    assert ours.keys() == theirs.keys()
    for key, item in theirs.items():
        assert ours[key] == item, key


@needs_helm
def test_helm_refuses_what_the_schema_does() -> None:
    """A misspelled value ends the installation, with its name."""
    with pytest.raises(AssertionError, match="enable"):
        rendered("limited.enable=true")


@needs_helm
def test_overlays_can_be_combined_in_any_namespace() -> None:
    """Nothing of another namespace is left, no object is there twice, and the flags are those of serve."""
    items = rendered(*EVERYTHING, "actuate.default=scale", namespace="llm")
    assert installation.SYSTEM not in json.dumps(items)
    objects = comparable(items)
    for kind, namespace, name in objects:
        assert namespace in {"", "llm", "kube-system"}, (kind, name)
    (container,) = objects["Deployment", "llm", "variant-adapter"]["spec"]["template"]["spec"][
        "containers"
    ]
    args = cli.parse(container["args"])
    assert (args.limited, args.actuate) == (True, "scale")
    monitor = objects["ServiceMonitor", "llm", "variant-adapter"]["spec"]["endpoints"][0]
    assert monitor["tlsConfig"]["ca"]["secret"]["name"] == "variant-adapter-tls"


@needs_helm
def test_values_become_configmaps_that_stay() -> None:
    """Without values there are none; with some, they are kept on uninstall and read as those of people."""
    defaults = {item["metadata"]["name"] for item in rendered() if item["kind"] == "ConfigMap"}
    assert "accelerator-unit-costs" not in defaults
    gold = {"name": "Gold", "priority": 1, "data": [{"model": "m", "slo-tpot": 24}]}
    written = {
        "prices": {"H100": {"device": "NVIDIA-H100-80GB-HBM3", "cost": "120"}},
        "serviceClasses": {"gold": gold},
        "settings": {"WVA_SCALE_TO_ZERO": True},
    }
    items = rendered(
        "crds.install=false",
        "apiService.enabled=false",
        "networkPolicy.enabled=false",
        "image.digest=sha256:" + "0" * 64,
        file=written,
    )
    objects = {(item["kind"], item["metadata"]["name"]): item for item in items}
    own = [
        objects["ConfigMap", name] for name in ("accelerator-unit-costs", "service-classes-config")
    ]
    own.append(objects["ConfigMap", "variant-adapter-variantautoscaling-config"])
    for item in own:
        assert item["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    reader = inputs.Reader()
    for item in own:
        reader.read_config_map("x", item)
    assert reader.problems == []
    assert reader.settings.accelerators["H100"].unit_cost == 120.0
    assert reader.settings.classes["gold"].service_class.targets["m"].itl_ms == 24
    assert reader.settings.data == {"WVA_SCALE_TO_ZERO": "true"}
    kinds = {kind for kind, _ in objects}
    assert not kinds & {"CustomResourceDefinition", "APIService", "NetworkPolicy"}
    spec = objects["Deployment", "variant-adapter"]["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == "variant-adapter@sha256:" + "0" * 64
