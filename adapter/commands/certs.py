"""`variant-adapter certs`: the serving certificate that the adapter keeps, and its authorities."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from adapter import errors, installation
from adapter.commands import kubeconfig
from adapter.kube.client import Cluster
from adapter.kube.errors import NotFound
from adapter.tls.certificate_secret import OwnCertificates, SecretStore, bundle_of, names
from certs import rotation


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "The certificate and its authorities are kept in a Secret and renewed by themselves when"
        " a third of their life is left."
    )
    command.add_argument(
        "action",
        choices=("show", "rotate"),
        help="rotate brings in a new authority now; the adapter then changes over without a gap",
    )
    defaults = OwnCertificates(namespace=installation.SYSTEM)
    command.add_argument("--certificate-secret", default=defaults.secret, help="(%(default)s)")
    command.add_argument("--service-name", default=defaults.service, help="(%(default)s)")
    command.add_argument("--api-service", default=defaults.api_service, help="(%(default)s)")
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    kubeconfig.register(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show, or rotate and show."""
    options = OwnCertificates(
        namespace=args.config_namespace,
        secret=args.certificate_secret,
        service=args.service_name,
        api_service=args.api_service,
    )
    rotate = args.action == "rotate"
    found = kubeconfig.run(args.kubeconfig, lambda cluster: _look(cluster, options, rotate=rotate))
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    for item in found["certificates"]:
        state = f"{item['daysLeft']} days left"
        if item["what"] != "serving certificate":
            trusted = item["trusted"]
            state += "" if trusted is None else ", trusted" if trusted else ", not trusted yet"
        print(f"{item['what']:<22}{item['until'][:10]}  {state:<34}{item['fingerprint'][:23]}")
    print(found["next"])
    return 0


async def _look(cluster: Cluster, options: OwnCertificates, *, rotate: bool) -> dict[str, Any]:
    store = SecretStore(cluster, namespace=options.namespace, name=options.secret)
    kept, version = await store.read()
    if kept is None:
        raise errors.InputError(
            f"Secret {options.namespace}/{options.secret}: holds no certificate; the adapter makes it at its"
            " first start, unless it was given files"
        )
    try:
        service = await cluster.request(
            "GET", f"/apis/apiregistration.k8s.io/v1/apiservices/{options.api_service}"
        )
        bundle = bundle_of(service)
    except NotFound:
        bundle = None
    if rotate and kept.following is None:
        kept = rotation.advance(
            kept,
            names=names(options),
            now=datetime.now(UTC),
            times=options.times,
            published=bundle,
            force=True,
        )
        await store.write(kept, version)
    return _described(kept, bundle)


def _described(kept: rotation.CertificateState, bundle: bytes | None) -> dict[str, Any]:
    parts = [("serving certificate", kept.serving.cert_pem), ("authority", kept.signing.cert_pem)]
    if kept.following is not None:
        parts.append(("next authority", kept.following.cert_pem))
    if kept.former:
        parts.append(("former authority", kept.former))
    now = datetime.now(UTC)
    shown = []
    for what, pem in parts:
        certificate = x509.load_pem_x509_certificate(pem)
        shown.append(
            {
                "what": what,
                "from": certificate.not_valid_before_utc.isoformat(),
                "until": certificate.not_valid_after_utc.isoformat(),
                "daysLeft": (certificate.not_valid_after_utc - now) // timedelta(days=1),
                "fingerprint": certificate.fingerprint(hashes.SHA256()).hex(":"),
                "trusted": None if bundle is None else pem.strip() in bundle,
            }
        )
    if kept.following is not None:
        coming = "the next authority is made; it signs once everyone has trusted it for an hour"
    elif kept.former:
        coming = "the former authority stays trusted for an hour after the change"
    else:
        coming = "nothing is due"
    return {"certificates": shown, "next": coming}
