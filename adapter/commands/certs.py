"""`variant-adapter certs`: the serving certificate in the adapter's Secret, and its authorities."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from adapter import errors, installation
from adapter.commands import flags, kubeconfig
from adapter.logs import printable

if TYPE_CHECKING:
    from adapter.kube.client import Cluster
    from adapter.tls.certificate_secret import OwnCertificates
    from certs import rotation


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Shows or rotates the serving certificate and its authorities. They are kept in a Secret, and the"
        " leader renews them when a third of their life is left."
    )
    command.add_argument(
        "action",
        **flags.choice("show", "rotate"),
        help="Action: show the certificates, or rotate, which starts the change to a new authority now;"
        " clients keep their trust throughout",
    )
    defaults = installation.Names()
    for flag, default, text in (
        ("--certificate-secret", defaults.secret, "Secret with the serving certificates"),
        ("--service-name", defaults.service, "Service that the serving certificate is for"),
        (
            "--api-service",
            installation.API_SERVICE,
            "APIService whose caBundle trusts the certificate",
        ),
    ):
        flags.add_name(command, flag, default, text)
    command.add_argument("--json", action="store_true", help="Print JSON instead of text")
    kubeconfig.add_flags(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show, or rotate and show."""
    # Certificates take a while to load, and `--help` does not need them.
    from adapter.tls.certificate_secret import OwnCertificates  # noqa: PLC0415

    options = OwnCertificates(
        namespace=args.config_namespace,
        secret=args.certificate_secret,
        service=args.service_name,
        api_service=args.api_service,
    )
    rotate = args.action == "rotate"
    document = kubeconfig.call(args, lambda cluster: _state(cluster, options, rotate=rotate))
    if args.json:
        print(json.dumps(document, indent=2))
        return 0
    for item in document["certificates"]:
        state = f"{item['daysLeft']} days left"
        if item["what"] != "serving certificate":
            trusted = item["trusted"]
            state += "" if trusted is None else ", trusted" if trusted else ", not trusted yet"
        line = f"{item['what']:<22}{item['until'][:10]}  {state:<34}{item['fingerprint'][:23]}"
        print(printable(line))
    print(printable(document["next"]))
    return 0


async def _state(cluster: Cluster, options: OwnCertificates, *, rotate: bool) -> dict[str, Any]:
    """The certificates as JSON, rotated first where the command says so."""
    from adapter.kube import paths  # noqa: PLC0415 - see `run`
    from adapter.kube.errors import NotFound  # noqa: PLC0415
    from adapter.tls.certificate_secret import SecretStore, bundle_of, names  # noqa: PLC0415
    from certs import rotation  # noqa: PLC0415

    store = SecretStore(cluster, namespace=options.namespace, name=options.secret)
    state, version = await store.read()
    if state is None:
        raise errors.InputError(
            f"Secret {options.namespace}/{options.secret}: holds no certificate; the adapter creates it at"
            " its first start, unless it runs with --tls-cert-file"
        )
    try:
        service = await cluster.request(
            "GET", paths.item("apiregistration.k8s.io/v1", "apiservices", options.api_service)
        )
        bundle = bundle_of(service)
    except NotFound:
        bundle = None
    if rotate and state.following is None:
        state = rotation.advance(
            state,
            names=names(options),
            now=datetime.now(UTC),
            times=options.times,
            published=bundle,
            force=True,
        )
        await store.write(state, version)
    return _described(state, bundle)


def _described(state: rotation.CertificateState, bundle: bytes | None) -> dict[str, Any]:
    """The certificates as JSON; `bundle` is the APIService's caBundle, None if it is unknown."""
    from cryptography import x509  # noqa: PLC0415 - see `run`
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415

    parts = [("serving certificate", state.serving.cert_pem), ("authority", state.signing.cert_pem)]
    if state.following is not None:
        parts.append(("next authority", state.following.cert_pem))
    if state.former:
        parts.append(("former authority", state.former))
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
    if state.following is not None:
        coming = "a new authority was created; it signs after it has been trusted for an hour"
    elif state.former:
        coming = "the former authority stays trusted for an hour after the change"
    else:
        coming = "no renewal is due"
    return {"certificates": shown, "next": coming}
