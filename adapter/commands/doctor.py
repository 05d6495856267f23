"""`variant-adapter doctor`: checks an installation in a cluster and says what to fix."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os

from adapter.app.config import prometheus_options
from adapter.commands import flags, kubeconfig
from adapter.diagnostics import doctor
from adapter.diagnostics.site import Finding, Site
from adapter.installation import Names
from adapter.kube.client import Cluster

MARKS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Looks at the aggregation layer, the APIService and its trust, who leads, permissions,"
        " ConfigMaps, every variant and every HPA that reads our metrics. Changes nothing. Exit status 1"
        " if there is an error."
    )
    defaults = Names()
    command.add_argument("--service-name", default=defaults.service, help="(%(default)s)")
    command.add_argument("--service-account", default=defaults.account, help="(%(default)s)")
    command.add_argument("--certificate-secret", default=defaults.secret, help="(%(default)s)")
    command.add_argument("--lease-name", default=defaults.lease, help="(%(default)s)")
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    kubeconfig.register(command)
    flags.register_prometheus(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check and print as it goes."""
    names = Names(
        namespace=args.config_namespace,
        service=args.service_name,
        account=args.service_account,
        secret=args.certificate_secret,
        lease=args.lease_name,
    )

    prometheus = prometheus_options(flags.prometheus(args), {}, os.environ)

    async def check(cluster: Cluster) -> list[Finding]:
        found = []
        async for finding in doctor.findings(Site(cluster, names, prometheus=prometheus)):
            found.append(finding)
            if not args.json:
                _print(finding)
        return found

    found = kubeconfig.run(args.kubeconfig, check)
    errors = sum(finding.level == "error" for finding in found)
    if args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in found], indent=2))
    else:
        warnings = sum(finding.level == "warning" for finding in found)
        print(f"{errors} errors, {warnings} warnings")
    return 1 if errors else 0


def _print(finding: Finding) -> None:
    print(f"{MARKS[finding.level]}  {finding.what}", flush=True)
    if finding.fix:
        print(f"         fix: {finding.fix}", flush=True)
