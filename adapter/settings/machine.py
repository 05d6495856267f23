"""Defaults that depend on where the process runs: the pod's namespace and name, the user's folders."""

from __future__ import annotations

import os
import platform
import uuid
from pathlib import Path

from adapter import installation

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def namespace() -> str:
    """The namespace of this pod; outside of a pod, that of the manifests."""
    if named := os.environ.get("POD_NAMESPACE"):
        return named
    try:
        return NAMESPACE_FILE.read_text(encoding="ascii").strip() or installation.SYSTEM
    except (OSError, UnicodeDecodeError):
        return installation.SYSTEM


def identity() -> str:
    """The name of this pod or host with a random suffix, so that no other process has it."""
    return f"{os.environ.get('POD_NAME') or platform.node()}_{uuid.uuid4().hex[:8]}"


def state_folder() -> Path:
    """Folder in which the certificates of the local authority stay between runs."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "variant-adapter"


def kubeconfig() -> Path:
    """The kubeconfig that kubectl reads; of several in $KUBECONFIG those that are there, joined alike."""
    files = [part for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    if not files:
        return Path.home() / ".kube" / "config"
    return Path(os.pathsep.join([part for part in files if Path(part).exists()] or files[:1]))
