"""Flags of the emulated vLLM server, and the engine that they describe."""

from __future__ import annotations

import argparse
from pathlib import Path

from emulator.engine import EngineProfile
from emulator.engines.backend import SchedulerProfile
from emulator.engines.step_times import SchedulerLimits, StepTimes


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(
        prog="emulator.vllm",
        description="Run an emulated vLLM server: OpenAI's API and vLLM's metrics without a GPU.",
    )
    flags.add_argument(
        "--host", default="127.0.0.1", help="Address to listen on. Default 127.0.0.1"
    )
    flags.add_argument(
        "--port", type=int, default=8000, help="Port to listen on; 0 picks a free one. Default 8000"
    )
    flags.add_argument(
        "--model",
        default="default/default",
        help="Name of the served model. Default default/default",
    )
    flags.add_argument(
        "--engine",
        choices=("profile", "vllm"),
        default="profile",
        help="Engine: profile (alpha, beta, gamma, delta) or vllm (its scheduler). Default profile",
    )
    flags.add_argument(
        "--speed", type=float, default=1.0, help="Scenario seconds per real second. Default 1"
    )
    flags.add_argument(
        "--start-delay",
        type=float,
        default=0.0,
        help="Scenario seconds before the server listens. Default 0",
    )
    flags.add_argument(
        "--port-file", type=Path, help="File to write the port to when the server listens"
    )
    _add_profile(flags.add_argument_group("--engine profile"))
    _add_scheduler(flags.add_argument_group("--engine vllm"))
    return flags


def _add_profile(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--alpha", type=float, default=20.58, help="Base of the decode time in ms. Default 20.58"
    )
    group.add_argument(
        "--beta",
        type=float,
        default=0.41,
        help="Decode time per request in the batch in ms. Default 0.41",
    )
    group.add_argument(
        "--gamma", type=float, default=0.0, help="Base of the prefill time in ms. Default 0"
    )
    group.add_argument(
        "--delta",
        type=float,
        default=0.0,
        help="Prefill time per input token and request in ms. Default 0",
    )
    group.add_argument("--max-batch", type=int, default=4, help="Largest batch. Default 4")


def _add_scheduler(group: argparse._ArgumentGroup) -> None:
    times: tuple[tuple[str, float, str], ...] = (
        ("--step-base-ms", 7.0, "Time of each step in ms"),
        ("--step-per-request-ms", 0.05, "Time that each request of a step adds in ms"),
        ("--step-per-prefill-token-ms", 0.04, "Time that each prompt token of a step adds in ms"),
        ("--step-per-context-token-ms", 4e-5, "Time that each token of context adds in ms"),
        ("--step-per-sqrt-request-ms", 0.0, "Time per square root of a step's requests in ms"),
        ("--step-per-prompt-ms", 0.0, "Time that each prompt adds once in ms"),
    )
    for name, value, text in times:
        group.add_argument(name, type=float, default=value, help=f"{text}. Default {value}")
    limits: tuple[tuple[str, int, str], ...] = (
        ("--max-num-seqs", 256, "Most requests in service"),
        ("--max-num-batched-tokens", 2048, "Most tokens of one step"),
        ("--kv-blocks", 27000, "Blocks of 16 tokens that requests can hold"),
    )
    for limit, number, text in limits:
        group.add_argument(limit, type=int, default=number, help=f"{text}. Default {number}")
    group.add_argument(
        "--max-num-queued-reqs",
        type=int,
        help="Requests that wait or run before others get status 503. Default no limit",
    )
    group.add_argument(
        "--max-num-queued-tokens",
        type=int,
        help="Prompt tokens without a first token before others get status 503. Default no limit",
    )


def profile_of(args: argparse.Namespace) -> EngineProfile | SchedulerProfile:
    """The engine that the flags describe; ValueError, which names the field, when there is none."""
    if args.engine == "profile":
        return EngineProfile(
            alpha_ms=args.alpha,
            beta_ms=args.beta,
            gamma_ms=args.gamma,
            delta_ms=args.delta,
            max_batch=args.max_batch,
        )
    return SchedulerProfile(
        times=StepTimes(
            base_ms=args.step_base_ms,
            per_request_ms=args.step_per_request_ms,
            per_prefill_token_ms=args.step_per_prefill_token_ms,
            per_context_token_ms=args.step_per_context_token_ms,
            per_sqrt_request_ms=args.step_per_sqrt_request_ms,
            per_prompt_ms=args.step_per_prompt_ms,
        ),
        limits=SchedulerLimits(
            max_num_seqs=args.max_num_seqs,
            max_num_batched_tokens=args.max_num_batched_tokens,
            kv_blocks=args.kv_blocks,
        ),
        max_num_queued_reqs=args.max_num_queued_reqs,
        max_num_queued_tokens=args.max_num_queued_tokens,
    )
