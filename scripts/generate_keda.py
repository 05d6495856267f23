"""Write the stubs in adapter/keda/protocol anew; needs grpcio-tools, which is in the extra `dev`.

With a folder as argument they are written there instead: a test compares.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = Path("adapter/keda/protocol/externalscaler.proto")
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


def generate(out: Path) -> None:
    """Write the stubs below a folder.

    Raises:
        ImportError: grpcio-tools is not installed.
        RuntimeError: the compiler refuses the .proto.

    """
    from grpc_tools import protoc  # noqa: PLC0415 - only who changes the .proto has it

    common = str(resources.files("grpc_tools") / "_proto")
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    status = protoc.main(["protoc", f"-I{ROOT}", f"-I{common}", *outputs, str(ROOT / PROTO)])
    if status != 0:
        raise RuntimeError(f"{PROTO}: the compiler refuses it (status {status})")


def main() -> None:
    """Write the stubs, and name them."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    generate(out)
    for suffix in SUFFIXES:
        print(out / PROTO.with_name(PROTO.stem + suffix))


if __name__ == "__main__":
    main()
