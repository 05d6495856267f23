"""Options of the external scaler; without grpc, which only `server` needs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# grpc would write a line for every handshake that fails, so for whatever a stranger sends; none of them is as
# the program's log is. It reads this when it is imported, after the options.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

Callers = Literal["certificate", "token", "none"]
"""Callers that are answered: those with a client certificate, those with a token, or all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KedaOptions:
    """Where and for whom KEDA's external scaler answers.

    Attributes:
        host: Address of the port.
        port: Port of gRPC over TLS; 0 picks a free one.
        callers: Callers that are answered.
        client_ca: Certificate authorities (PEM) of client certificates; None where none are needed.
        certificate: Serving certificate (PEM); None uses that of the API.
        key: Private key (PEM) of `certificate`.

    """

    host: str
    port: int
    callers: Callers = "certificate"
    client_ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
