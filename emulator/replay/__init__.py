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
"""Names of the policies without a threshold; here, so that `--help` loads none of them."""

THRESHOLDS = {
    "in-flight": "requests in flight",
    "rps": "requests per second",
    "kv": "KV-cache use",
    "queue": "queue length",
}
"""Metrics per ready pod that an HPA with a threshold scales on, with what they are."""

FORMS = tuple(f"{metric}@THRESHOLD" for metric in THRESHOLDS)
"""Names of policies that carry a threshold per pod, such as in-flight@8."""
