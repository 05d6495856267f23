"""`variant-adapter analyze`: how much load one replica can serve, and how many replicas a rate needs."""

from __future__ import annotations

import argparse
import codecs
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from adapter.commands import flags
from adapter.errors import UsageError
from adapter.logs import printable

if TYPE_CHECKING:
    from adapter.formats import cases, step_cases

_CHUNK = 1 << 16
_ALWAYS_SHOWN = 95.0
"""Percentile that the table for step times always shows, whatever percentile is requested."""

REPLICA = (
    (
        "--alpha",
        "MS",
        "Decode time of one token with an empty batch, ms, unless step times are given. Required",
    ),
    (
        "--beta",
        "MS",
        "Decode time that each request of the batch adds, ms, unless step times are given. Required",
    ),
    ("--gamma", "MS", "Prefill time of an empty batch, ms. Default 0"),
    ("--delta", "MS", "Prefill time that each prompt token of the batch adds, ms. Default 0"),
    (
        "--max-batch",
        "N",
        "Largest number of requests in service, unless step times are given. Required",
    ),
    ("--max-queue", "N", "Largest number of waiting requests. Default 10 times the max batch"),
    (
        "--at-tokens",
        "N",
        "Output tokens at which the max batch was measured; scales it. Default 0: it is not scaled",
    ),
)
STEPS = (
    (
        "--step-base-ms",
        "MS",
        "Time of an engine step whatever it does, ms, unless alpha and beta are given. Required",
    ),
    ("--step-per-request-ms", "MS", "Time that each request in a step adds, ms. Default 0"),
    (
        "--step-per-sqrt-request-ms",
        "MS",
        "Time per square root of the requests in a step, ms; mixtures of experts have it. Default 0",
    ),
    (
        "--step-per-prefill-token-ms",
        "MS",
        "Time that each prompt token computed in a step adds, ms, unless alpha and beta are given. Required",
    ),
    (
        "--step-per-context-token-ms",
        "MS",
        "Time that each token of context of a request in a step adds, ms. Default 0",
    ),
    ("--step-per-prompt-ms", "MS", "Time that each prompt adds once, ms. Default 0"),
    ("--max-num-seqs", "N", "Largest number of requests in service of an engine. Default 256"),
    (
        "--max-num-batched-tokens",
        "N",
        "Largest number of tokens, prompt and output, that one step computes. Default 2048",
    ),
    ("--kv-tokens", "N", "Tokens that the KV cache holds. Default none: it does not bind"),
)
LOAD = (
    ("--input-tokens", "N", "Prompt tokens per request, mean. Default 0"),
    ("--output-tokens", "N", "Output tokens per request, mean. Required"),
)
VARIATION = (
    (
        "--input-tokens-cv",
        "CV",
        "Coefficient of variation of the prompt tokens; needs step times. Default 0",
    ),
    (
        "--output-tokens-cv",
        "CV",
        "Coefficient of variation of the output tokens; needs step times. Default 0",
    ),
    (
        "--cached-tokens",
        "N",
        "Prompt tokens per request that the prefix cache serves, mean; needs step times. Default 0",
    ),
)
RATES = (
    ("--rate", "RPS", "Arrival rate to analyze, requests per second. Default none: only targets"),
    ("--rpm", "RPM", "Arrival rate to analyze, requests per minute. Default none: only targets"),
)
TARGETS = (
    ("--ttft", "MS", "Target of the time to first token, ms. Default none"),
    ("--itl", "MS", "Target of the inter-token latency, ms. Default none"),
    ("--tps", "TPS", "Target of the output of all replicas, tokens per second. Default none"),
    (
        "--percentile",
        "P",
        "Percentile that TTFT and ITL targets bound, from 50, such as 95 (or 0.95). Default none: the mean",
    ),
)
_FIELDS = {
    "--rate": "rate_rps",
    "--ttft": "target_ttft_ms",
    "--itl": "target_itl_ms",
    "--tps": "target_tps",
}
"""Fields of a case that are not named like their flag."""


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Computes latencies of one replica at --rate, or the load that it can serve within --ttft, --itl and"
        " --tps, or both. With --jsonl each line of standard input is a case, and one line of JSON answers"
        " it; an invalid case is answered with its error and does not change the exit status."
    )
    command.add_argument(
        "--jsonl",
        action="store_true",
        help="Read cases from standard input, one JSON object a line; no other flag then describes a case."
        " Fields are named like the flags with underscores (max_batch), but rate_rps, target_ttft_ms,"
        " target_itl_ms and target_tps. A field id is repeated in the answer",
    )
    command.add_argument("--json", action="store_true", help="Print JSON instead of a table")
    command.add_argument(
        "--plot",
        type=flags.path,
        metavar="PNG",
        help="File to draw TTFT and ITL against the arrival rate into. Default none",
    )
    _add_numbers(command.add_argument_group("Replica"), REPLICA)
    _add_numbers(command.add_argument_group("Step times of the replica's engine"), STEPS)
    load = command.add_argument_group("Load")
    _add_numbers(load, LOAD)
    _add_numbers(load, VARIATION)
    _add_numbers(load.add_mutually_exclusive_group(), RATES)
    targets = command.add_argument_group("Latency and throughput targets")
    _add_numbers(targets, TARGETS)
    targets.add_argument(
        "--stability-margin",
        type=flags.share,
        metavar="SHARE",
        help="Share of a replica's highest service rate that stays unused, such as 5%% (or 0.05). Default"
        " 0.1 for alpha and beta. Default 0.05 for step times",
    )
    command.add_argument(
        "--min-replicas",
        type=int,
        metavar="N",
        help="Least number of replicas for the rate. Default 0",
    )
    command.set_defaults(run=run)


def _add_numbers(
    group: argparse._ActionsContainer, numbers: tuple[tuple[str, str, str], ...]
) -> None:
    for flag, metavar, text in numbers:
        group.add_argument(
            flag,
            type={"P": _percentile, "MS": _milliseconds}.get(metavar, _number),
            metavar=metavar,
            dest=_FIELDS.get(flag, flag.removeprefix("--").replace("-", "_")),
            help=text,
        )


def _number(text: str) -> float:
    """Read a number, for argparse; bounds and NaN are the model's to refuse."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def _percentile(text: str) -> float:
    """Read a percentile, for argparse; 95, 0.95, p95 and 95% are the same."""
    from adapter.settings import percentiles  # noqa: PLC0415 - see `run`

    return _number(str(percentiles.plain(text)))


def _milliseconds(text: str) -> float:
    """Read a number of milliseconds, for argparse."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, in ms, not {text!r}") from None


def run(args: argparse.Namespace) -> int:
    """Answer the cases of standard input, or the case that the flags describe."""
    # The schemas and the model load numpy, which `--help` does not need.
    from adapter.formats import cases, step_cases  # noqa: PLC0415

    given = {
        name: value
        for name in {**cases.Case.model_fields, **step_cases.StepCase.model_fields}
        if (value := getattr(args, name, None)) is not None
    }
    if args.rpm is not None:
        given["rate_rps"] = args.rpm / 60
    if args.jsonl:
        if given or args.plot is not None:
            raise UsageError("--jsonl takes its cases from standard input, no other flags")
        return _stream(sys.stdin.buffer)
    answer = json.loads(cases.answer_lines([json.dumps(given)])[0])
    if "error" in answer:
        raise UsageError(_by_flags(str(answer["error"]), rpm=args.rpm))
    if args.plot is not None:
        # Pictures load the fits too; nothing else of this command needs them.
        from adapter.formats import plots  # noqa: PLC0415

        case = cases.parse(given)
        assert not isinstance(case, step_cases.InvalidCase)  # noqa: S101 - it was answered
        plots.write_analysis(case, args.plot)
    if problem := _unit_problem(args):
        print(f"note: {printable(problem)}", file=sys.stderr)
    if args.json:
        print(json.dumps(answer))
    else:
        case = cases.parse(given)
        assert not isinstance(case, step_cases.InvalidCase)  # noqa: S101 - it was answered
        for line in _table(answer, case):
            print(printable(line))
    return 0


def _unit_problem(args: argparse.Namespace) -> str:
    """Why the flags' times are in another unit than ms; empty where nothing says so."""
    from analyzer.latency import unit_problem  # noqa: PLC0415 - see `run`

    return unit_problem(
        args.alpha or args.step_base_ms or 0.0,
        args.beta or args.step_per_request_ms or 0.0,
        args.step_per_sqrt_request_ms or 0.0,
    )


def _by_flags(error: str, *, rpm: float | None) -> str:
    """The error of a case that flags describe, with the flags' names for the fields that it names."""
    from adapter.planning import fleet  # noqa: PLC0415 - see `run`

    fields, colon, problem = error.partition(": ")
    if rpm is not None and fields == "rate_rps":
        if rpm > fleet.LARGEST_RATE_RPM:
            return f"--rpm: must be at most {fleet.LARGEST_RATE_RPM:g}, not {rpm:g}"
        return f"--rpm: must be a number >= 0, not {rpm:g}"
    flags = {field: flag for flag, field in _FIELDS.items()}
    named = [flags.get(field, "--" + field.replace("_", "-")) for field in fields.split(", ")]
    if len(named) > 1 and named[0] == "--rate":
        named.insert(1, "--rpm")
    return f"{', '.join(named)}{colon}{problem}"


def _stream(source: BinaryIO) -> int:
    """Answer the lines that have arrived as one batch, so that no case waits for a later one."""
    from adapter.formats import cases  # noqa: PLC0415 - see `run`

    for lines in _arrived(source):
        for answer in cases.answer_lines(lines):
            print(answer)
        sys.stdout.flush()
    return 0


def _arrived(source: BinaryIO) -> Iterator[list[str]]:
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    rest = ""
    read = getattr(source, "read1", source.read)
    while data := read(_CHUNK):
        *lines, rest = (rest + decode(data)).split("\n")
        yield [line for line in lines if line.strip()]
    rest += decode(b"", final=True)
    if rest.strip():
        yield [rest]


def _table(answer: dict[str, Any], case: cases.Case | step_cases.StepCase) -> Iterator[str]:
    from adapter.formats import cases  # noqa: PLC0415 - see `run`

    if case.sizes:
        yield from _capacity(answer, case)
    if "throughput_rps" not in answer:
        return
    replicas = answer.get("replicas", 1)
    if case.sizes:
        plural = "needs 1 replica; it" if replicas == 1 else f"needs {replicas} replicas; each"
        yield f"{case.rate_rps:g} req/s {plural} then has"
    else:
        yield f"One replica at {case.rate_rps:g} req/s"
    throughput = f"{answer['throughput_rps']:.6g} req/s, {answer['tokens_per_second']:.6g} tokens/s"
    rows = [
        ("throughput", throughput),
        ("TTFT", _ms(answer["ttft_ms"])),
        ("ITL", _ms(answer["itl_ms"])),
    ]
    if isinstance(case, cases.Case):
        batch = answer.get("max_batch", int(case.batch))
        rows += [
            ("waiting", _ms(answer["waiting_ms"])),
            ("service", _ms(answer["service_ms"])),
            ("response", _ms(answer["response_ms"])),
            ("in service", f"{answer['in_service']:.6g} of {batch}"),
            ("in queue", f"{answer['in_queue']:.6g}"),
            ("utilization", f"{answer['utilization']:.2%}, busy {answer['busy']:.2%}"),
            ("blocking", f"{answer['blocking']:.3g}"),
        ]
    else:
        rows += [
            ("TTFT p95", _ms(answer["ttft_p95_ms"])),
            ("ITL p95", _ms(answer["itl_p95_ms"])),
            ("response", _ms(answer["response_ms"])),
            ("in service", f"{answer['in_service']:.6g} of {answer['max_batch']}"),
            ("KV cache", f"{answer['kv_usage']:.2%}"),
            ("utilization", f"{answer['utilization']:.2%}"),
        ]
    for name, text in rows:
        yield f"  {name:<12} {text}"
    if case.percentile is not None and (
        isinstance(case, cases.Case) or case.percentile != _ALWAYS_SHOWN
    ):
        waiting = (
            f" waiting {_ms(answer['waiting_percentile_ms'])},"
            if isinstance(case, cases.Case)
            else ""
        )
        yield (
            f"  p{case.percentile:g}:{waiting} TTFT {_ms(answer['ttft_percentile_ms'])},"
            f" ITL {_ms(answer['itl_percentile_ms'])}"
        )


def _ms(value: float | None) -> str:
    return "grows without end" if value is None else f"{value:.6g} ms"


def _capacity(answer: dict[str, Any], case: cases.Case | step_cases.StepCase) -> Iterator[str]:
    of = "means" if case.percentile is None else f"p{case.percentile:g}"
    held = answer.get("kv_bound_batch")
    cache = "" if held is None else f", KV cache for {held} requests"
    yield f"One replica, max batch {answer['max_batch']}{cache}, targets on {of}"
    for name, target, unit in (
        ("ttft", case.target_ttft_ms, "ms"),
        ("itl", case.target_itl_ms, "ms"),
        ("tps", case.target_tps, "tokens/s"),
    ):
        if target is None:
            continue
        most = answer[f"max_rate_{name}_rps"]
        text = "cannot be met" if most is None else f"up to {most:.6g} req/s"
        yield f"  {name.upper():<12} {target:g} {unit}: {text}"
    if answer["infeasible"] is not None:
        yield f"  infeasible   {answer['infeasible']['reason']}"
    else:
        yield (
            f"  can serve    {answer['max_rate_rps']:.6g} req/s = {answer['max_rate_rps'] * 60:.6g} req/min,"
            f" bound by {answer['binding']}"
        )
