"""Write what the Helm chart shares with manifests/: run it after a change of a manifest.

The Deployment, the ConfigMaps of values, the helpers and the notes are written by hand; every other template
is a manifest, in the namespace of the release and behind the value of its overlay.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = ROOT / "manifests"
CHART = ROOT / "charts/variant-adapter"

NAMESPACE = "variant-adapter-system"

TEMPLATES: Mapping[str, tuple[str, str]] = {
    "rbac.yaml": ("base/rbac.yaml", ""),
    "defaults.yaml": ("base/defaults.yaml", ""),
    "managed-targets.yaml": ("base/managed-targets.yaml", ""),
    "service.yaml": ("base/service.yaml", ""),
    "fence.yaml": ("base/fence.yaml", ""),
    "networkpolicy.yaml": ("base/networkpolicy.yaml", "networkPolicy.enabled"),
    "limited-nodes.yaml": ("overlays/limited/nodes.yaml", "limited.enabled"),
    "limited-owners.yaml": ("overlays/limited/owners.yaml", "limited.enabled"),
    "actuate.yaml": ("overlays/actuate/scale.yaml", "actuate.enabled"),
    "actuate-fence.yaml": ("overlays/actuate/fence.yaml", "actuate.enabled"),
    "certificate.yaml": ("overlays/cert-manager/certificate.yaml", "certManager.enabled"),
    "delegation.yaml": ("overlays/delegation/caller.yaml", "delegation.enabled"),
    "metrics-reader.yaml": ("overlays/monitoring/reader.yaml", "monitoring.enabled"),
    "servicemonitor.yaml": ("overlays/monitoring/servicemonitor.yaml", "monitoring.enabled"),
    "prometheusrule.yaml": ("overlays/monitoring/prometheusrule.yaml", "monitoring.enabled"),
}
"""Manifest and value of each template; the value is empty where the template is always rendered."""

_KEDA_PORT = """\
  - name: keda
    port: 9443
    targetPort: keda
"""

_KEDA_INGRESS = """\
  - ports:
    - port: keda
      protocol: TCP
    - port: metrics
      protocol: TCP
    from:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .Values.keda.namespace }}
"""

KEDA: Mapping[str, tuple[str, str]] = {
    "base/service.yaml": ("", _KEDA_PORT),
    "base/networkpolicy.yaml": ("  egress:\n", _KEDA_INGRESS),
}
"""What the overlay for KEDA adds to objects of the base, before a line (empty: at the end)."""

FILES: Mapping[str, str] = {
    "files/crd.yaml": "crd/variantautoscalings.yaml",
    "files/dashboard.json": "overlays/monitoring/dashboard.json",
}
"""Files that templates read as they are."""


def template(text: str, source: str, value: str) -> str:
    """The template of a manifest."""
    body = "---\n".join(_document(document) for document in yaml.safe_load_all(text))
    if source == "overlays/monitoring/servicemonitor.yaml":
        secret = '{{ ternary "variant-adapter-tls" "variant-adapter-certs" .Values.certManager.enabled }}'
        body = body.replace("variant-adapter-certs", secret)
    if source in KEDA:
        before, text = KEDA[source]
        at = body.index(before) if before else len(body)
        body = (
            f"{body[:at]}  {{{{- if .Values.keda.enabled }}}}\n{text}  {{{{- end }}}}\n{body[at:]}"
        )
    head = f"{{{{/* Written by scripts/make_chart.py from manifests/{source}. */}}}}\n"
    if value:
        return f"{head}{{{{- if .Values.{value} }}}}\n{body}{{{{- end }}}}\n"
    return head + body


def _document(document: Mapping[str, Any]) -> str:
    metadata = document["metadata"]
    rest = {
        key: value for key, value in metadata.items() if key not in {"name", "namespace", "labels"}
    }
    own = dict(metadata.get("labels") or {})
    lines = ["metadata:", f"  name: {metadata['name']}"]
    if "namespace" in metadata:
        lines.append(f"  namespace: {metadata['namespace']}")
    lines += ["  labels:", *_indented(_dumped(own), 4)] if own else ["  labels:"]
    lines.append("    @labels@")
    lines += _indented(_dumped(rest), 2) if rest else []
    head = _dumped({key: document[key] for key in ("apiVersion", "kind")})
    tail = {k: v for k, v in document.items() if k not in {"apiVersion", "kind", "metadata"}}
    text = head + "\n".join(lines) + "\n" + (_dumped(tail) if tail else "")
    # Braces of other template languages, such as Prometheus', are none of Helm's.
    text = text.replace("{{", "@open@").replace("}}", "@close@")
    for mark, what in (
        ("@open@", '{{ "{{" }}'),
        ("@close@", '{{ "}}" }}'),
        ("    @labels@", '    {{- include "variant-adapter.labels" . | nindent 4 }}'),
        (NAMESPACE, "{{ .Release.Namespace }}"),
    ):
        text = text.replace(mark, what)
    return text


def _dumped(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)


def _indented(text: str, by: int) -> list[str]:
    return [f"{' ' * by}{line}" if line else line for line in text.splitlines()]


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def chart() -> str:
    """Chart.yaml, of the package's version."""
    version = metadata.version("variant-adapter")
    return f"""\
# Written by scripts/make_chart.py.
apiVersion: v2
name: variant-adapter
description: Sizes LLM inference variants and serves desired replicas to HorizontalPodAutoscalers
type: application
version: {version}
appVersion: {version}
kubeVersion: ">=1.32.0-0"
keywords: [llm, vllm, autoscaling, hpa, external-metrics]
"""


def written() -> Iterator[tuple[str, str]]:
    """Path below the chart, and text, of every file."""
    yield "Chart.yaml", chart()
    for name, source in FILES.items():
        yield name, (MANIFESTS / source).read_text(encoding="utf-8")
    for name, (source, value) in TEMPLATES.items():
        text = (MANIFESTS / source).read_text(encoding="utf-8")
        yield f"templates/{name}", template(text, source, value)


def main() -> int:
    """Write every file; with --check only compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="Name files that are stale, write none"
    )
    check = parser.parse_args().check
    stale = 0
    for name, text in written():
        path = CHART / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale += 1
            print(f"{'stale' if check else 'written'}: {path.relative_to(ROOT)}")
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
