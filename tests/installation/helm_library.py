"""`helm template`, and the notes of an installation, by Helm's own library: package helm-python-sdk.

For machines without the program.

A program, because the library brings Go's threads and signal handlers, which other tests must not meet.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import Any

import yaml


def nested(settings: list[str]) -> dict[str, Any]:
    """Values as `--set PATH=VALUE` gives them."""
    values: dict[str, Any] = {}
    for setting in settings:
        path, _, text = setting.partition("=")
        *folders, name = path.split(".")
        part = values
        for folder in folders:
            part = part.setdefault(folder, {})
        part[name] = yaml.safe_load(text)
    return values


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Values of both; those of `over` count."""
    both = dict(under)
    for name, value in over.items():
        below = under.get(name)
        inner = isinstance(below, dict) and isinstance(value, dict)
        both[name] = merged(below or {}, value) if inner else value
    return both


def main() -> None:
    """Check the values against the chart's schema, and print its objects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("template", "notes"))
    parser.add_argument("release")
    parser.add_argument("chart")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--values", choices=("-",), required=True)
    args = parser.parse_args()
    helm: Any = import_module("helm_python")
    values = merged(yaml.safe_load(sys.stdin) or {}, nested(args.set))
    try:
        chart = helm.Chart.load(args.chart)
        chart.validate_schema(values)
        texts = chart.render(values, name=args.release, namespace=args.namespace)
    except helm.HelmError as error:
        sys.exit(f"Error: {error}")
    for path, text in sorted(texts.items()):
        if args.command == "notes":
            sys.stdout.write(text if path.endswith("/NOTES.txt") else "")
        elif path.endswith((".yaml", ".yml")) and text.strip():
            sys.stdout.write(f"---\n# Source: {path}\n{text}\n")


if __name__ == "__main__":
    main()
