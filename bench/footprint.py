"""Memory and CPU of the server in a cluster of 1, 100 and 1,000 variants, for the manifests' resources.

The real program serves against an in-memory Kubernetes API; every variant has a Deployment with two pods,
whose metrics it scrapes every 5 s. Memory is the peak of the server alone, and with its planning worker.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.fakes import cluster_world as worlds  # noqa: E402 - the clone is what is measured

VARIANTS = (1, 100, 1000)
SECONDS = 40.0


def process_tree(process_id: int) -> list[int]:
    """Ids of the process and its descendants."""
    ids = [process_id]
    for task in Path(f"/proc/{process_id}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                ids += process_tree(int(child))
    return ids


def peak_mib(process_id: int) -> float:
    """Peak resident memory of the process."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds(process_id: int) -> float:
    """User and system time of the process so far."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def last_decided(world: worlds.World, name: str, process: asyncio.subprocess.Process) -> None:
    """Wait for the target of the last variant, however slow the machine is.

    Raises:
        SystemExit: the server has ended.

    """
    while world.desired(name) is None:
        if process.returncode is not None:
            raise SystemExit(f"the server ended with status {process.returncode}")
        await asyncio.sleep(0.2)


async def measure(count: int) -> tuple[float, float, float]:
    """Peak MiB of the server, peak MiB of all its processes, and CPUs used while it serves."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with worlds.running(folder) as world:
            for number in range(1, count):
                world.deploy(f"v{number}", 2)
            world.load |= {f"v{number}": 60.0 / worlds.SPEED for number in range(1, count)}
            entrance = await world.site.entrance("a")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "adapter", "serve", f"--kubeconfig={entrance.kubeconfig}",
                f"--config-namespace={worlds.SYSTEM}", "--port=0", f"--state-dir={folder}/state",
                "--interval=15s", "--scrape-interval=5s", "--window=15s", cwd=ROOT,
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            try:
                await last_decided(world, f"v{count - 1}" if count > 1 else "v", process)
                used = sum(map(cpu_seconds, process_tree(process.pid)))
                await asyncio.sleep(SECONDS)
                processes = process_tree(process.pid)
                share = (sum(map(cpu_seconds, processes)) - used) / SECONDS
                return peak_mib(process.pid), sum(map(peak_mib, processes)), share
            finally:
                process.terminate()
                await process.wait()


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--variants",
        type=int,
        nargs="*",
        default=VARIANTS,
        help="numbers of variants to measure. Default: 1 100 1000",
    )
    args = parser.parse_args()
    print(f"{'variants':>8}  {'server MiB':>10}  {'all MiB':>8}  {'CPUs':>5}")
    for count in args.variants:
        server, everything, share = asyncio.run(measure(count))
        print(f"{count:>8}  {server:>10.0f}  {everything:>8.0f}  {share:>5.2f}", flush=True)


if __name__ == "__main__":
    main()
