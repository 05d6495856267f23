"""Settings of the server, of the installation in a cluster, and of another adapter, each declared once.

Texts follow the rules for help: each can be read alone, starts with a noun or a verb, and has its unit. The
default and the other spellings are added by `Declaration.described`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from adapter import installation
from adapter.settings import kinds, machine
from adapter.settings.declaration import setting

Actuator = Literal["hpa", "scale", "none"]
"""What sets the replicas of a scale target: an HPA, the adapter itself, or none of them."""

_NAMES = installation.Names()


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Where and how the API is served."""

    TITLE: ClassVar[str] = "API server"

    variants: Path | None = setting(
        None,
        kinds.FOLDER,
        "Folder of Kubernetes objects (YAML) to read instead of a cluster",
        shown="none: read a cluster",
    )
    host: str = setting("127.0.0.1", kinds.ADDRESS, "Address of the API's TLS port")
    port: int = setting(6443, kinds.PORT, "TLS port of the API; 0 picks a free one")
    metrics_host: str = setting("127.0.0.1", kinds.ADDRESS, "Address of the metrics port")
    metrics_port: int | None = setting(
        None,
        kinds.PORT,
        "Port without TLS for /metrics, /variants, /ui, /healthz and /readyz; 0 picks a free one",
        shown="none: no metrics port",
    )
    metrics_auth: Literal["cluster", "none"] = setting(
        "cluster",
        kinds.choice("cluster", "none"),
        "Callers of /metrics, /variants and /ui on the metrics port: those whose bearer token may get"
        " /metrics or /variants in the cluster, and peers on loopback (cluster), or all (none)",
    )
    kubeconfig: Path | None = setting(
        None,
        kinds.FILE,
        "Kubeconfig of the cluster to read; with --variants, of the cluster that reviews tokens and access",
        shown="none: the cluster of this pod",
        exclusive="cluster",
    )
    in_cluster: bool = setting(
        False,
        kinds.ENABLE,
        "Use the cluster of this pod; needed only with --variants, to review tokens and access there",
        exclusive="cluster",
    )
    state_dir: Path = setting(
        Path(),
        kinds.FOLDER,
        "Folder for the local authority, its certificates and its kubeconfig, or for a copy of the Secret's"
        " certificates in a cluster",
        factory=machine.state_folder,
        shown="variant-adapter in $XDG_STATE_HOME or ~/.local/state",
    )
    tls_cert_file: Path | None = setting(
        None,
        kinds.FILE,
        "Serving certificate (PEM); needs --tls-private-key-file",
        shown="none: a certificate of the local authority, or of --certificate-secret in a cluster",
    )
    tls_private_key_file: Path | None = setting(
        None, kinds.FILE, "Private key (PEM) of --tls-cert-file", shown="none"
    )
    client_ca_file: Path | None = setting(
        None,
        kinds.FILE,
        "Certificate authorities (PEM) of client certificates, with --variants",
        shown="none: the local authority",
    )
    requestheader_client_ca_file: Path | None = setting(
        None,
        kinds.FILE,
        "Certificate authorities (PEM) of front proxies such as kube-apiserver, with --variants",
        shown="none: no front proxy is trusted",
    )
    shutdown_delay: float = setting(
        0.0,
        kinds.bounded_seconds(0.1, 3600.0, off=True),
        "Time after SIGTERM during which requests are still served while /readyz fails",
    )
    log_format: Literal["auto", "text", "json"] = setting(
        "auto",
        kinds.choice("auto", "text", "json"),
        "Format of the log on standard error; auto writes text on a terminal and JSON elsewhere",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Names and duties of an installation in a cluster."""

    TITLE: ClassVar[str] = "Installation in a cluster"

    namespaces: tuple[str, ...] = setting(
        (), kinds.LABELS, "Namespaces of the variants, separated by commas", shown="all"
    )
    selector: str = setting(
        "",
        kinds.TEXT,
        "Label selector of the VariantAutoscalings that this installation owns",
        shown="all",
    )
    config_namespace: str = setting(
        "",
        kinds.LABEL,
        "Namespace of the adapter's ConfigMaps, Lease and Secret",
        factory=machine.namespace,
        shown=f"the pod's namespace, else {installation.SYSTEM}",
    )
    identity: str = setting(
        "",
        kinds.IDENTITY,
        "Name of this replica in leader election; must be unique",
        factory=machine.identity,
        shown="$POD_NAME or the host's name, with a random suffix",
    )
    lease_name: str = setting(_NAMES.lease, kinds.NAME, "Name of the Lease of leader election")
    lease_duration: float = setting(
        15.0,
        kinds.bounded_seconds(3.0, 3600.0, whole=True),
        "Time after which another replica may take a Lease that was not renewed: whole seconds, 3s to 1h",
    )
    actuate: Actuator = setting(
        "hpa",
        kinds.choice("hpa", "scale", "none"),
        "Actuator of the replicas: an HPA that reads the metric, the adapter by the scale subresource, or"
        " none (advisory: decide and record, publish nothing that an autoscaler reads)",
        annotation="llmd.ai/actuate",
    )
    owner_references: bool = setting(
        False,
        kinds.ENABLE,
        "Make each VariantAutoscaling owned by its scale target, so that both are deleted together",
    )
    certificate_secret: str = setting(
        _NAMES.secret,
        kinds.NAME,
        "Secret in which serving certificates are kept and rotated, without --tls-cert-file",
    )
    certificate_overlap: float = setting(
        3600.0,
        kinds.bounded_seconds(1.0, 7 * 86400.0),
        "Time during which the old and the new certificate authority are both trusted",
    )
    service_name: str = setting(_NAMES.service, kinds.LABEL, "Service of the adapter's API")
    api_service: str = setting(
        installation.API_SERVICE, kinds.NAME, "APIService whose caBundle is kept up to date"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """How another adapter for the same API is reached."""

    TITLE: ClassVar[str] = "Delegation to another adapter of the same API"

    delegate_to: str | None = setting(
        None,
        kinds.URL,
        "URL of another adapter, to which requests for its metrics are proxied",
        shown="none",
    )
    delegate_ca_file: Path | None = setting(
        None,
        kinds.FILE,
        "Certificate authorities (PEM) of the other adapter's serving certificate",
        shown="none: those of the system",
    )
    delegate_client_cert: Path | None = setting(
        None, kinds.FILE, "Front-proxy client certificate (PEM) for the other adapter", shown="none"
    )
    delegate_client_key: Path | None = setting(
        None, kinds.FILE, "Private key (PEM) of --delegate-client-cert", shown="none"
    )
    delegate_token_file: Path | None = setting(
        None,
        kinds.FILE,
        "File with a service account token for the other adapter, instead of a certificate",
        shown="none",
    )
    delegate_timeout: float = setting(
        4.0,
        kinds.bounded_seconds(0.1, 300.0),
        "Deadline of one proxied request; kube-apiserver's probes wait 5s",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Keda:
    """KEDA's external scaler."""

    TITLE: ClassVar[str] = "External scaler for KEDA"

    keda_port: int | None = setting(
        None,
        kinds.PORT,
        "Port of KEDA's external scaler (gRPC over TLS); needs the extra keda; 0 picks a free one",
        shown="none: no external scaler",
    )
    keda_host: str = setting("127.0.0.1", kinds.ADDRESS, "Address of --keda-port")
    keda_callers: Literal["certificate", "token", "none"] = setting(
        "certificate",
        kinds.choice("certificate", "token", "none"),
        "Callers of --keda-port that are answered: those with a client certificate of --keda-client-ca-file"
        " (certificate), those whose bearer token may get the VariantAutoscaling (token), or all (none)",
    )
    keda_client_ca_file: Path | None = setting(
        None,
        kinds.FILE,
        "Certificate authorities (PEM) of KEDA's client certificate, read again when replaced",
        shown="none: needed with --keda-callers=certificate",
    )
    keda_tls_cert_file: Path | None = setting(
        None,
        kinds.FILE,
        "Serving certificate (PEM) of --keda-port, read again when replaced; needs"
        " --keda-tls-private-key-file",
        shown="none: the API's serving certificate",
    )
    keda_tls_private_key_file: Path | None = setting(
        None, kinds.FILE, "Private key (PEM) of --keda-tls-cert-file", shown="none"
    )
