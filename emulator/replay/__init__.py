"""`variant-adapter replay`: compare scaling policies by replaying traffic in virtual time."""

COMMAND = {
    "module": "emulator.replay.command",
    "summary": "Compare scaling policies on recorded or generated traffic",
}
"""Entry point of the command line, which loads the module only when the command is called."""

POLICIES = (
    "ours",
    "ours-reactive",
    "ours-mean",
    "reference",
    "hpa-queue",
    "hpa-kv-cache",
    "static",
    "clairvoyant",
)
"""Names of the policies of one point each, without a threshold; here, so that `--help` loads none of them."""

BOUNDS = ("static", "without-foresight", "clairvoyant")
"""Names of the policies that know the traffic."""

THRESHOLDS = {
    "in-flight": "requests in flight",
    "rps": "requests per second",
    "kv": "KV-cache use",
    "queue": "queue length",
}
"""Metrics per ready pod that an HPA with a threshold scales on, with what they are."""

RIVALS = (
    *THRESHOLDS,
    "kpa",
    "slo-aware",
    "token-aware",
    "dynamo",
    "wva",
    "cost-aware",
    "expansion",
)
"""Names of the rivals, which carry a threshold such as kpa@8."""

OF_GROUPS = ("cost-aware", "expansion")
"""Rivals that place one demand over the variants of a model; `rivals` has them where there are several."""

PER_VARIANT = "per-variant"
"""The adapter without groups: each variant by what its own pods are offered."""

PUBLISHED = {"slo-aware": 0.55, "token-aware": 2.0, "dynamo": 1.0, "wva": 1.0, "cost-aware": 0.85}
"""Thresholds of the rivals' guides, which their bare names have."""

GROUP = "rivals"
"""Name that stands for every rival at its default thresholds."""

DEFAULT = ("ours", GROUP, *BOUNDS)
"""Policies of the command where none are named."""

CURVE = ("0.8", "0.9", "0.95", "0.99", "0.995")
"""Percentiles of the adapter's curve, where nothing else is swept."""

FORMS = tuple(f"{rival}@THRESHOLD" for rival in RIVALS)
"""Names of policies that carry a threshold, such as in-flight@8."""

KNOWN = (
    f"{', '.join(dict.fromkeys((*POLICIES, PER_VARIANT, *BOUNDS)))}, {', '.join(FORMS)} (without it:"
    f" {', '.join(PUBLISHED)} as published, the others at their default thresholds), NAME@sweep for the"
    f" latter, and {GROUP} for all of these"
)
"""What `--policies` takes, for messages and the help."""
