"""One recording of `record`: how far it is, what it appends to the trace, and its summary."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import Progress

from adapter import errors
from adapter.collector.prometheus import PrometheusError
from adapter.formats import request_history
from adapter.formats.request_history import RequestHistory, Step
from adapter.formats.request_sampling import Request, RequestSampler, SamplerState
from adapter.formats.trace_file import TraceFile
from adapter.kube import duration
from adapter.logs import printable

CHUNK_STEPS = 120
"""Steps of one query: of a hundred pods with histograms that is a response of some 20 MB."""
MOST_NAMED = 10
"""Most models that an error names."""
_AGO = re.compile(r"(\s*+\S++(?:\s++(?!ago$)\S++)*+)\s++ago")


@dataclass(kw_only=True)
class Recording:
    """One recording and how far it is.

    Attributes:
        settings: Flags that it depends on, by name.
        start: Beginning, Unix seconds.
        steps: Number of steps in all.
        done: Number of steps that are recorded.
        requests: Number of requests so far.
        tokens: Input and output tokens so far.
        most_pods: Largest number of pods in a step.
        gaps: Beginning and end of times of which nothing is known, Unix seconds.

    """

    file: TraceFile
    settings: Mapping[str, Any]
    sampler: RequestSampler
    start: int
    steps: int
    done: int = 0
    requests: int = 0
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    most_pods: int = 0
    gaps: list[list[float]] = field(default_factory=list)

    @classmethod
    def open(cls, args: argparse.Namespace, *, now: float) -> Recording:
        """Begin, or go on where an earlier one ended.

        Raises:
            UsageError: the end is not after the beginning.
            InputError: the trace cannot be written, or was begun with other flags.

        """
        settings = {
            "model": args.model,
            "namespace": args.namespace or "",
            "from": args.start,
            "to": args.end,
            "step": args.step,
            "seed": args.seed,
        }
        start, end = int(moment(args.start, now, "--from")), int(moment(args.end, now, "--to"))
        steps = (min(end, int(now)) - start) // args.step
        if steps < 1:
            raise errors.UsageError(
                f"--to: must be at least a step of {args.step} s after --from, and that not in the future"
            )
        file = TraceFile(args.output)
        progress = file.open(settings)
        if progress is None:
            sampler = RequestSampler(seed=args.seed)
            return cls(file=file, settings=settings, sampler=sampler, start=start, steps=steps)
        try:
            state = SamplerState.from_json(progress.pop("sampler"))
            sampler = RequestSampler(seed=args.seed, state=state)
            recording = cls(file=file, settings=settings, sampler=sampler, **progress)
        except (TypeError, ValueError, KeyError) as error:
            raise errors.InputError(
                f"{args.output}.resume: cannot be resumed from; delete it to restart"
            ) from error
        note(f"{args.output}: resumed after {recording.done} of {recording.steps} steps")
        return recording

    @property
    def seconds(self) -> int:
        """Length of a step."""
        return int(self.settings["step"])

    @property
    def resume_hint(self) -> str:
        """How to go on."""
        if self.done == 0:
            return "nothing is recorded yet"
        return f"{self.done} of {self.steps} steps are recorded: rerun the command to resume"

    def record(self, history: RequestHistory) -> None:
        """Read what is left, chunk by chunk, and give the trace its name.

        Raises:
            PrometheusError: no usable response; what was read until then is kept.
            InputError: there is nothing to record, or the trace cannot be written.

        """
        console = Console(stderr=True)
        # Elsewhere than on a terminal the bar would leave a blank line.
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"Recording {self.settings['model']}", total=self.steps)
            bar.update(task, completed=self.done)
            while self.done < self.steps:
                number = min(CHUNK_STEPS, self.steps - self.done)
                at = self.start + self.done * self.seconds
                steps = history.steps(at, number, self.seconds)
                self._append([request for step in steps for request in self._add(step)], number)
                bar.update(task, completed=self.done)
        self._append(self.sampler.finish(), 0)
        if self.requests == 0:
            self.file.discard()
            raise errors.InputError(self._nothing(history))
        self.file.complete()

    def _add(self, step: Step) -> list[Request]:
        self.most_pods = max(self.most_pods, step.pods)
        if step.pods == 0:
            end = step.start + step.seconds
            if self.gaps and self.gaps[-1][1] == step.start:
                self.gaps[-1][1] = end
            else:
                self.gaps.append([step.start, end])
        return self.sampler.add(step)

    def _append(self, requests: Sequence[Request], steps: int) -> None:
        self.done += steps
        self.requests += len(requests)
        self.tokens[0] += sum(request.input_tokens for request in requests)
        self.tokens[1] += sum(request.output_tokens for request in requests)
        progress = {
            "start": self.start,
            "steps": self.steps,
            "done": self.done,
            "requests": self.requests,
            "tokens": self.tokens,
            "most_pods": self.most_pods,
            "gaps": self.gaps,
            "sampler": self.sampler.state.to_json(),
        }
        self.file.append(requests, settings=self.settings, progress=progress)

    def _nothing(self, history: RequestHistory) -> str:
        """Why there is nothing to record, and of which models there is something."""
        model, namespace = self.settings["model"], self.settings["namespace"]
        end = self.start + self.steps * self.seconds
        whose = f"model {model!r}" + (f" in namespace {namespace!r}" if namespace else "")
        when = f"from {_shown(self.start)} to {_shown(end)}"
        if self.most_pods:
            return f"no request of {whose} {when}; {self.most_pods} pods were scraped"
        try:
            models, others = history.models(self.start, end), ", nor of any other model"
        except PrometheusError:
            models, others = [], ""
        if not models:
            names = ", ".join(sorted(request_history.SERIES))
            return (
                f"no series of {whose} {when}{others}: is this the Prometheus that scrapes the pods? Queried"
                f" were {names}"
            )
        shown = [f"{name!r} in namespace {space!r}" for space, name in models[:MOST_NAMED]]
        more = f" and {len(models) - MOST_NAMED} more" if len(models) > MOST_NAMED else ""
        return (
            f"no series of {whose} {when}; Prometheus has those of {', '.join(shown)}{more} (--model takes"
            " the label model_name)"
        )

    def summary(self, restored: str) -> list[str]:
        """What was recorded; `restored` says what of the past that is."""
        state, mean = self.sampler.state, [tokens / self.requests for tokens in self.tokens]
        end = self.start + self.steps * self.seconds
        lines = [
            f"{self.file.path}: {self.requests} requests of up to {self.most_pods} pods",
            f"From {_shown(self.start)} to {_shown(end)} in steps of {self.seconds} s",
            f"Tokens per request: {mean[0]:.1f} input, {mean[1]:.1f} output",
            *restored.splitlines(),
        ]
        if state.unfinished:
            lines.append(
                f"{state.unfinished} requests had not finished: lengths sampled from finished requests."
            )
        if state.dropped:
            lines.append(
                f"{state.dropped} requests are left out: their arrival or length is unknown."
            )
        lines += [
            f"Gap, not filled: {_shown(begin)} to {_shown(finish)}: no pod was scraped."
            for begin, finish in self.gaps
        ]
        return lines


def moment(text: str, now: float, flag: str) -> float:
    """Unix seconds of an RFC 3339 time (without a zone UTC), `now`, or a duration `ago`.

    Raises:
        UsageError: the text is none of these; names the flag.

    """
    text = text.strip()
    if text == "now":
        return now
    try:
        if ago := _AGO.fullmatch(text):
            return now - duration.seconds(ago[1])
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise errors.UsageError(
            f"{flag}: must be like 2026-03-01T12:00:00Z, '6h ago' or 'now', not {text!r}"
        ) from error
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _shown(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def note(text: str) -> None:
    """Print a message beside the result."""
    print(printable(f"variant-adapter record: {text}"), file=sys.stderr)
