"""Settings of collection, sizing and the reconcile cycle, each declared once; see `serving` for the texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from adapter.planning.fleet import ROUTINGS, Routing
from adapter.planning.groups import Budget
from adapter.settings import kinds
from adapter.settings.budgets import BUDGETS
from adapter.settings.declaration import setting
from analyzer.defaults import HEADROOM, STABILITY_MARGIN
from optimizer.problem import POLICIES, SaturationPolicy

Source = Literal["auto", "direct", "prometheus"]
"""Where load is read: the pods themselves, Prometheus, or the pods with Prometheus where they fail (auto)."""

DEFAULT_STARTUP_SECONDS = 60.0
"""Start-up time of a replica that neither its pods nor a setting say."""

SOURCES: tuple[Source, ...] = ("auto", "direct", "prometheus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciling:
    """When targets are decided, and within which bounds."""

    TITLE: ClassVar[str] = "Reconcile cycle"

    interval: float = setting(
        30.0,
        kinds.bounded_seconds(0.1, 3600.0),
        "Longest time between two reconcile cycles; a significant rise of load starts one at once",
        key="GLOBAL_OPT_INTERVAL",
    )
    time_to_live: float = setting(
        300.0,
        kinds.bounded_seconds(1.0, 86400.0),
        "How long a published target stays valid without a new decision",
    )
    scale_to_zero: bool = setting(
        False,
        kinds.SWITCH,
        "Scale variants that are proven idle to zero replicas",
        key="WVA_SCALE_TO_ZERO",
        annotation="llmd.ai/scale-to-zero",
    )
    scale_to_zero_retention: float = setting(
        600.0,
        kinds.bounded_seconds(1.0, 7 * 86400.0),
        "How long a variant must be proven idle before it goes to zero replicas",
        annotation="llmd.ai/scale-to-zero-retention",
    )
    keep_accelerator: bool | None = setting(
        None,
        kinds.SWITCH,
        "Keep every variant on its accelerator",
        shown="on in a cluster, off with --variants",
        annotation="llmd.ai/keep-accelerator",
    )
    tune: bool = setting(
        False,
        kinds.ENABLE,
        "Adjust profiles of alpha, beta, gamma and delta without the lengths of their measurement to observed"
        " latencies; step times, given or converted, are adjusted anyway, within a factor of 2.5",
        annotation="llmd.ai/tune",
    )
    stability_margin: float | None = setting(
        None,
        kinds.SHARE,
        "Share of a replica's highest service rate that stays unused, even where latency targets allow more;"
        " with step times and percentile targets, at most what spares 20% of the allowed misses",
        shown=f"{STABILITY_MARGIN:g} for alpha and beta, {HEADROOM:g} for step times, given or converted",
    )
    budgets: tuple[Budget, ...] = setting(
        (),
        BUDGETS,
        "Ceilings on cost in cents per hour and on GPUs, per installation, namespace or service class; a YAML"
        " list, which docs/groups.md describes",
        flag="",
        key="budgets",
        shown="none",
    )
    limited: bool = setting(
        False,
        kinds.ENABLE,
        "Plan within the GPUs that the cluster's nodes have free; not with --variants",
    )
    saturation_policy: SaturationPolicy = setting(
        "PriorityExhaustive",
        kinds.choice(*POLICIES),
        "Order in which remaining GPUs are given out when limited GPUs cannot serve every variant",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Collecting:
    """Where load is read."""

    TITLE: ClassVar[str] = "Collection of load"

    metrics_source: Source = setting(
        "auto",
        kinds.choice(*SOURCES),
        "Source of load metrics: the serving pods (direct), Prometheus, or the pods with Prometheus for those"
        " that do not answer (auto)",
        annotation="llmd.ai/metrics-source",
    )
    scrape_interval: float = setting(
        15.0,
        kinds.bounded_seconds(0.1, 600.0),
        "Time between two scrapes of a pod, and between two queries of Prometheus",
    )
    busy_scrape_interval: float = setting(
        5.0,
        kinds.bounded_seconds(0.1, 600.0),
        "Time between two scrapes of the pods of a variant whose requests wait or whose load moves, and of"
        " the first 32 pods of others; the scrape interval where that is shorter",
    )
    window: float = setting(
        60.0, kinds.bounded_seconds(1.0, 3600.0), "Window over which rates are computed"
    )
    long_window: float = setting(
        180.0,
        kinds.bounded_seconds(1.0, 86400.0, off=True),
        "Window of the smoothed rate and lengths, which are used unless load changed significantly",
    )
    stale_after: float = setting(
        0.0,
        kinds.bounded_seconds(0.1, 3600.0),
        "Age from which metrics of a pod are not used",
        shown="2.5 scrape intervals",
    )
    allowed_endpoints: tuple[str, ...] = setting(
        (),
        kinds.DESTINATIONS,
        "CIDRs, hosts and *.DOMAINs, separated by commas, that the annotation llmd.ai/metrics-endpoints may"
        " name in a cluster besides the pods of the variant's own scale target",
        shown="none",
    )
    gateway_metrics: tuple[tuple[str, str], ...] = setting(
        (),
        kinds.GATEWAYS,
        "Metrics URL of an inference gateway's endpoint picker: its requests count as load and wake variants"
        " at zero replicas; not with --variants; may be repeated",
        shown="none",
    )
    discover_gateways: bool = setting(
        True,
        kinds.SWITCH,
        "Find the endpoint pickers of InferencePools that select pods of variants, and count their requests"
        " as those of --gateway-metrics; not with --variants",
    )
    pods_ca_file: Path | None = setting(
        None,
        kinds.FILE,
        "Certificate authorities (PEM) of the https certificates of pods, read again when replaced; with it"
        " a certificate need not name the address",
        shown="none: those of the system",
    )
    pods_insecure: bool = setting(
        False, kinds.SWITCH, "Skip the verification of the https certificates of pods"
    )
    pods_token_file: Path | None = setting(
        None,
        kinds.FILE,
        "File with a bearer token for the metrics of pods, read again before each request; it goes over"
        " https only",
        shown="none",
    )
    gateways_ca_file: Path | None = setting(
        None,
        kinds.FILE,
        "Certificate authorities (PEM) of the https certificates of gateways, read again when replaced; with"
        " it a certificate need not name the address",
        shown="none: those of the system",
    )
    gateways_insecure: bool = setting(
        False, kinds.SWITCH, "Skip the verification of the https certificates of gateways"
    )
    gateways_token_file: Path | None = setting(
        None,
        kinds.FILE,
        "File with a bearer token for the metrics of gateways, read again before each request; it goes over"
        " https only, unless --gateways-token-over-http is given",
        shown="none",
    )
    gateways_token_over_http: bool = setting(
        False,
        kinds.SWITCH,
        "Send the token for the metrics of gateways over http too, which endpoint pickers with authentication"
        " and without TLS need",
    )
    gateways_token_namespaces: tuple[str, ...] = setting(
        (),
        kinds.LABELS,
        "Namespaces, separated by commas, whose discovered endpoint pickers get the token for the metrics of"
        " gateways as those of --gateway-metrics do; anyone who may run pods there can read the token",
        shown="none",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """How Prometheus, Thanos or Mimir is reached."""

    TITLE: ClassVar[str] = "Prometheus, Thanos or Mimir"

    prometheus: str = setting(
        "",
        kinds.URL,
        "Base URL of the Prometheus API; an empty one turns Prometheus off",
        key="PROMETHEUS_BASE_URL",
        shown="none: load is read from pods only",
    )
    prometheus_ca_file: Path | None = setting(
        None,
        kinds.FILE,
        "Certificate authorities (PEM) that Prometheus' certificate is verified with",
        key="PROMETHEUS_CA_CERT_PATH",
        shown="none: those of the system",
    )
    prometheus_client_cert: Path | None = setting(
        None,
        kinds.FILE,
        "Client certificate (PEM) for Prometheus",
        key="PROMETHEUS_CLIENT_CERT_PATH",
        shown="none",
    )
    prometheus_client_key: Path | None = setting(
        None,
        kinds.FILE,
        "Private key (PEM) of the client certificate for Prometheus",
        key="PROMETHEUS_CLIENT_KEY_PATH",
        shown="none: the file of the certificate",
    )
    prometheus_server_name: str = setting(
        "",
        kinds.HOST,
        "Host name that Prometheus' certificate must have",
        key="PROMETHEUS_SERVER_NAME",
        shown="the host of the URL",
    )
    prometheus_token_file: Path | None = setting(
        None,
        kinds.FILE,
        "File with a bearer token for Prometheus, read again before each query",
        key="PROMETHEUS_TOKEN_PATH",
        shown="none",
    )
    prometheus_token: str = setting(
        "",
        kinds.TEXT,
        "Bearer token for Prometheus; a token file wins. It has no flag, because command lines are visible",
        flag="",
        key="PROMETHEUS_BEARER_TOKEN",
        shown="none",
    )
    prometheus_insecure: bool = setting(
        False,
        kinds.SWITCH,
        "Skip the verification of Prometheus' certificate",
        key="PROMETHEUS_TLS_INSECURE_SKIP_VERIFY",
    )
    prometheus_header: tuple[tuple[str, str], ...] = setting(
        (),
        kinds.HEADERS,
        "HTTP header of every query, such as the tenant's X-Scope-OrgID; may be repeated",
        shown="none",
    )
    prometheus_timeout: float = setting(
        10.0,
        kinds.bounded_seconds(0.1, 300.0),
        "Deadline of one query with its whole response",
        key="PROMETHEUS_TIMEOUT",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """Which load replicas are provided for, and how targets may change."""

    TITLE: ClassVar[str] = "Sizing"

    anticipate: bool = setting(
        True,
        kinds.SWITCH,
        "Extrapolate a rising trend over the time that a new replica needs to start",
    )
    startup_time: float | None = setting(
        None,
        kinds.bounded_seconds(1.0, 86400.0),
        "Start-up time of a replica, where its pods do not show it",
        shown=kinds.show_seconds(DEFAULT_STARTUP_SECONDS),
        annotation="llmd.ai/startup-time",
    )
    drain_time: float = setting(
        60.0,
        kinds.bounded_seconds(1.0, 3600.0, off=True),
        "Time in which new replicas should work off waiting requests",
    )
    headroom: float = setting(
        0.03,
        kinds.PERCENT,
        "Share of the arrival rate that is added for its changes between two reconcile cycles",
    )
    slo_feedback: bool = setting(
        True,
        kinds.SWITCH,
        "Size a variant for up to 1.5 times its load while its requests miss a target of a percentile in more"
        " cases than was planned, though the planned replicas are there",
    )
    routing: Routing = setting(
        "random",
        kinds.choice(*ROUTINGS),
        "Routing of requests to replicas: spread as by a Service (random), or by a gateway that knows the"
        " replicas' load, which needs fewer replicas (least-loaded)",
        annotation="llmd.ai/routing",
    )
    model_groups: bool = setting(
        True,
        kinds.SWITCH,
        "Size the variants of one namespace, model and service class as one group that shares its demand;"
        " groups that variants name by the annotation llmd.ai/group are formed either way",
    )
    interruptible_share: float = setting(
        0.5,
        kinds.PERCENT,
        "Largest share of a group's demand that its interruptible variants (annotation llmd.ai/interruptible)"
        " carry together",
        annotation="llmd.ai/interruptible-share",
    )
    down_window: float = setting(
        90.0,
        kinds.bounded_seconds(1.0, 86400.0, off=True),
        "Shortest scale-down stabilization window; off turns scale-down stabilization off",
    )
    down_window_startups: float = setting(
        2.0,
        kinds.FACTOR,
        "Scale-down stabilization window as a multiple of the start-up time of the variant's replicas, where"
        " that is longer, because a removed replica takes a start-up to return",
    )
    step_up: int | None = setting(
        None,
        kinds.COUNT,
        "Largest number of replicas added in one reconcile cycle",
        shown="no limit",
    )
    step_down: int | None = setting(
        None,
        kinds.COUNT,
        "Largest number of replicas removed in one reconcile cycle",
        shown="no limit",
    )
