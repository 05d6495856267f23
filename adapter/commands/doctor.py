"""`variant-adapter doctor`: checks an installation in a cluster and names the fix of each problem."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from typing import TYPE_CHECKING

from adapter.app.prometheus import command_options
from adapter.commands import flags, kubeconfig
from adapter.installation import Names
from adapter.logs import printable
from adapter.settings.control import Prometheus

if TYPE_CHECKING:
    from adapter.diagnostics.site import Finding
    from adapter.kube.client import Cluster

MARKS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Checks the aggregation layer, the APIService and its caBundle, the leader, permissions, ConfigMaps,"
        " every variant, every HPA that reads the adapter's metrics, and Prometheus. Changes nothing. The"
        " exit status is 1 if there is an error."
    )
    defaults = Names()
    for flag, default, text in (
        ("--service-name", defaults.service, "Service of the adapter's API"),
        ("--service-account", defaults.account, "Service account of the adapter"),
        ("--certificate-secret", defaults.secret, "Secret with the serving certificates"),
        ("--lease-name", defaults.lease, "Lease of leader election"),
    ):
        flags.add_name(command, flag, default, text)
    command.add_argument("--json", action="store_true", help="Print JSON instead of text")
    kubeconfig.add_flags(command)
    flags.add(
        command,
        Prometheus,
        config_map=False,
        defaults={"prometheus": "none: Prometheus is not checked"},
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the checks, and print each finding as it is made."""
    # The checks load schemas, certificates and the Prometheus client, which `--help` does not need.
    from adapter.diagnostics import doctor  # noqa: PLC0415
    from adapter.diagnostics.site import Site  # noqa: PLC0415

    names = Names(
        namespace=args.config_namespace,
        service=args.service_name,
        account=args.service_account,
        secret=args.certificate_secret,
        lease=args.lease_name,
    )
    prometheus = command_options(vars(args), os.environ)

    async def check(cluster: Cluster) -> list[Finding]:
        findings = []
        async for finding in doctor.findings(Site(cluster, names, prometheus=prometheus)):
            findings.append(finding)
            if not args.json:
                _print(finding)
        return findings

    findings = kubeconfig.call(args, check)
    errors = sum(finding.level == "error" for finding in findings)
    if args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        warnings = sum(finding.level == "warning" for finding in findings)
        print(f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}")
    return 1 if errors else 0


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print(finding: Finding) -> None:
    print(f"{MARKS[finding.level]}  {printable(finding.what)}", flush=True)
    if finding.fix:
        print(f"         fix: {printable(finding.fix)}", flush=True)
