"""The real server with fixed series, for conformance runs against any cluster's identities.

    python -m tests.fakes.conformance_server --fixtures FILE --kubeconfig FILE --cert FILE --key FILE --port N

FILE of the fixtures holds `fixtures.series_in_every_namespace`. It listens on 127.0.0.1, prints its address
when it serves, and ends on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from adapter import errors
from adapter.apiserver import handlers
from adapter.apiserver.probes import Probes
from adapter.auth import delegated
from adapter.kube import client
from adapter.store import Series, TargetStore
from adapter.tls import listener


def series(path: Path) -> list[Series]:
    """Series of the fixtures file; without a namespace they are in every one."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document = document.get("fixtures", document)
    return [
        Series(
            metric=item["metric"],
            namespace=item.get("namespace"),
            labels=item.get("labels") or {},
            value=item["value"],
            decided_at=time.time(),
            valid_until=None,
        )
        for item in document["series_in_every_namespace"]
    ]


async def serve(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = TargetStore()
    store.publish(series(args.fixtures))
    drain = listener.Drain()
    async with (
        client.connected(args.kubeconfig) as cluster,
        delegated.delegated_auth(cluster, certificate=args.cert, key=args.key) as auth,
    ):
        application = handlers.application(
            provider=store,
            authenticator=auth.authenticator,
            policy=auth.policy,
            probes=Probes(CollectorRegistry(), {"ping": lambda: None, "shutdown": drain.check}),
        )
        async with listener.listening(
            application, host="127.0.0.1", port=args.port, certificates=auth.certificates
        ) as port:
            print(f"serving on https://127.0.0.1:{port}", flush=True)  # noqa: T201 - for the process that started it
            await stop.wait()
            drain.begin()


def main() -> int:
    """Run the server."""
    parser = argparse.ArgumentParser(prog="tests.fakes.conformance_server", description=__doc__)
    parser.add_argument("--fixtures", type=Path, required=True)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--cert", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    try:
        asyncio.run(serve(args))
    except errors.AdapterError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)  # noqa: T201 - as above
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
