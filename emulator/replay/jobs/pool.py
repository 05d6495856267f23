"""Runs jobs one after the other, or in processes of their own where that pays."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from adapter import logs
from emulator.replay.jobs.results_folder import ResultsFolder
from emulator.replay.jobs.tasks import Task, execute
from emulator.replay.results import PolicyResult
from emulator.replay.running import Run

PAYS_FROM_REQUESTS = 150_000
"""Requests over all replays from which a second process, which starts in about two seconds, pays."""
MOST_JOBS = 2

Report = Callable[[str, float], None]
"""Receives the name of a policy in progress and the completed share of all work, 0 to 1."""

_POLL_SECONDS = 0.2

_Finished = Generator[tuple[PolicyResult, ...], None, None]
"""Results of one job after the other."""


def default_jobs(given: Run, tasks: Sequence[Task]) -> int:
    """Processes that pay for this work on this machine."""
    requests = sum(len(trace) for trace in given.traffic.values())
    replayed = requests * sum(task.replays for task in tasks)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if replayed < PAYS_FROM_REQUESTS:
        return 1
    return min(MOST_JOBS, cores or 1, len(tasks))


def run_all(
    given: Run,
    tasks: Sequence[Task],
    *,
    jobs: int | None = None,
    out: Path | None = None,
    report: Report = lambda _name, _share: None,
) -> dict[str, PolicyResult]:
    """Results of all jobs by the policy's name.

    Args:
        given: Scenario and traffic.
        tasks: The jobs.
        jobs: Processes; None for as many as pay.
        out: Folder that keeps finished jobs; None to keep none.
        report: Receives the progress.

    """
    folder = None if out is None else ResultsFolder(out, given)
    total = sum(task.replays for task in tasks)
    results: dict[str, PolicyResult] = {}
    open_tasks = []
    for task in tasks:
        saved = None if folder is None else folder.load(task)
        if saved is None:
            open_tasks.append(task)
        else:
            results |= {item.policy: item for item in saved}
    progress = _Progress(report, total, done=total - sum(task.replays for task in open_tasks))
    number = default_jobs(given, open_tasks) if jobs is None else min(jobs, len(open_tasks))
    finished = (
        _one_after_the_other(given, open_tasks, folder, progress)
        if number <= 1
        else _in_processes(given, open_tasks, out, number, progress)
    )
    # Closed at once when it is left early, such as by Ctrl-C: its processes would go on meanwhile.
    with contextlib.closing(finished):
        for of_task in finished:
            results |= {item.policy: item for item in of_task}
    return results


class _Progress:
    """Replays done over all jobs; each job tells its own."""

    def __init__(self, report: Report, total: int, *, done: int) -> None:
        self._report, self._total, self._done = report, max(total, 1), done
        self._by_task: dict[str, float] = {}

    def told(self, task: str, name: str, replays: float) -> None:
        self._by_task[task] = max(replays, self._by_task.get(task, 0.0))
        self._report(name, (self._done + sum(self._by_task.values())) / self._total)


def _one_after_the_other(
    given: Run, tasks: Sequence[Task], folder: ResultsFolder | None, progress: _Progress
) -> _Finished:
    for task in tasks:

        def told(name: str, replays: float, task: Task = task) -> None:
            progress.told(task.name, name, replays)

        results = execute(given, task, told)
        if folder is not None:
            folder.save(task, results)
        yield results


_Told = tuple[str, str, float]


class _Worker:
    """What a process of the pool has for all its jobs; one per process."""

    given: Run
    folder: ResultsFolder | None
    queue: SimpleQueue[_Told]
    busy: bool = False
    ended: bool = False


def _begin(given: Run, out: Path | None, queue: SimpleQueue[_Told]) -> None:
    logs.configure("text", quiet=True)
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _Worker.given, _Worker.queue = given, queue
    _Worker.folder = None if out is None else ResultsFolder(out, given)


def _end(_signal: int, _frame: object) -> None:
    """End the job and those that follow, but no process: half a result would be waited for without end."""
    _Worker.ended = True
    if _Worker.busy:
        raise SystemExit


def _end_with_parent() -> None:
    """End this process when the one that waits for its results has ended, such as by SIGTERM."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _execute(task: Task) -> tuple[PolicyResult, ...]:
    _Worker.busy = True
    try:
        if _Worker.ended:
            raise SystemExit
        results = execute(
            _Worker.given, task, lambda name, done: _Worker.queue.put((task.name, name, done))
        )
        if _Worker.folder is not None:
            _Worker.folder.save(task, results)
        return results
    finally:
        _Worker.busy = False


def _in_processes(
    given: Run, tasks: Sequence[Task], out: Path | None, number: int, progress: _Progress
) -> _Finished:
    context = multiprocessing.get_context("spawn")
    queue: SimpleQueue[_Told] = context.SimpleQueue()
    pool = ProcessPoolExecutor(
        number, mp_context=context, initializer=_begin, initargs=(given, out, queue)
    )
    # The longest first, so that no process ends alone with them.
    ordered = sorted(tasks, key=lambda task: -task.replays)
    others = set(multiprocessing.active_children())
    try:
        with _ctrl_c_later():
            waiting: set[Future[tuple[PolicyResult, ...]]] = {
                pool.submit(_execute, task) for task in ordered
            }
        while waiting:
            done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            while not queue.empty():
                progress.told(*queue.get())
            for future in done:
                yield future.result()
    except BaseException:
        # The pool would wait for what runs, and for the jobs that it has given out beyond that. A second
        # Ctrl-C would leave them behind.
        with _ctrl_c_later():
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Deliver Ctrl-C at the end, and never to processes that begin meanwhile.

    The terminal sends it to all of them: a worker would go on with its next job, and one that is just being
    started would belong to no pool. The one that waits for them ends them.
    """
    pressed: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    # Other threads of this process get what is blocked in this one; what it starts inherits the block.
    handler = signal.getsignal(signal.SIGINT)
    if in_main:
        signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main:
            signal.signal(signal.SIGINT, handler)
    if pressed:
        raise KeyboardInterrupt
