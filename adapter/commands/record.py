"""`variant-adapter record`: writes the request history of a model to a trace that `replay` reads."""

from __future__ import annotations

import argparse
import os
import time

from adapter import errors
from adapter.app.prometheus import command_options
from adapter.commands import flags
from adapter.logs import printable
from adapter.settings.control import Prometheus

_RESTORED = """\
Restored: requests and tokens per step, and lengths by histogram bucket.
Drawn with the seed: arrival times within a step, lengths within a bucket, which input goes with which output.
Lost: order and bursts within a step, sessions and shared prefixes, requests that clients gave up, idle time \
before the first request and after the last."""


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Reads the counters of a model's vLLM or SGLang pods from Prometheus and writes one line per request,"
        " as a trace in the format of the Azure LLM inference traces, which `variant-adapter replay` reads."
        " Rerun the command to resume an interrupted recording. " + _RESTORED.replace("\n", " ")
    )
    command.add_argument(
        "--model",
        type=flags.not_empty,
        required=True,
        metavar="TEXT",
        help="Served model name: the label model_name of its metrics in Prometheus. Required",
    )
    command.add_argument(
        "--namespace",
        type=flags.dns_label,
        metavar="NAME",
        help="Namespace of the model's pods. Default every namespace",
    )
    command.add_argument(
        "--from",
        dest="start",
        default="6h ago",
        metavar="TIME",
        help="Beginning of the recording: RFC 3339, or a duration such as '6h ago'. Default 6h ago",
    )
    command.add_argument(
        "--to",
        dest="end",
        default="now",
        metavar="TIME",
        help="End of the recording, written like --from, or 'now'. Default now",
    )
    command.add_argument(
        "--step",
        type=whole_seconds,
        default=60,
        metavar="DURATION",
        help="Resolution of the recorded rate: whole seconds, no less than Prometheus' scrape interval."
        " Default 60s",
    )
    command.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="Seed of what is drawn, a number >= 0. Default 0",
    )
    command.add_argument(
        "--output", type=flags.path, required=True, metavar="FILE", help="Trace to write. Required"
    )
    flags.add(
        command,
        Prometheus,
        config_map=False,
        defaults={"prometheus": "none: required unless PROMETHEUS_BASE_URL is set"},
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Record, or go on with a recording that was interrupted."""
    # Arrays, progress bars and the clients of Prometheus, which `--help` does not need.
    from adapter.collector.lookups.prometheus_api import PrometheusApi  # noqa: PLC0415
    from adapter.collector.prometheus import PrometheusError  # noqa: PLC0415
    from adapter.commands.recording import Recording, note  # noqa: PLC0415
    from adapter.formats.request_history import RequestHistory  # noqa: PLC0415

    options = command_options(vars(args), os.environ)
    if options is None:
        raise errors.UsageError("no Prometheus is set: give --prometheus or PROMETHEUS_BASE_URL")
    history = PrometheusApi(options)
    try:
        recording = Recording.open(args, now=time.time())
        counted = RequestHistory(history, model=args.model, namespace=args.namespace or "")
        try:
            recording.record(counted)
        except KeyboardInterrupt:
            note(f"interrupted; {recording.resume_hint}")
            raise
        except PrometheusError as error:
            raise errors.InputError(f"{error} ({recording.resume_hint})") from error
    finally:
        history.close()
    for line in recording.summary(_RESTORED):
        print(printable(line))
    return 0


def whole_seconds(text: str) -> int:
    """A duration of whole seconds for argparse."""
    value = flags.seconds(text)
    if value != int(value):
        raise argparse.ArgumentTypeError(f"must be whole seconds, not {text!r}")
    return int(value)


def seed(text: str) -> int:
    """A seed for argparse."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"must be a whole number >= 0, not {text!r}")
    return int(text)
