"""Kubeconfigs whose credentials a program prints."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import yaml

VERSION = "client.authentication.k8s.io/v1"


def printed_by_program(kubeconfig: Path) -> None:
    """Let a program print the client certificate that the file holds, in the file's place."""
    document = yaml.safe_load(kubeconfig.read_text())
    user = document["users"][0]["user"]
    pems = {
        f"client{kind}Data": base64.b64decode(user.pop(f"client-{name}-data")).decode()
        for kind, name in (("Certificate", "certificate"), ("Key", "key"))
    }
    answer = kubeconfig.with_name(f"{kubeconfig.name}-credentials.json")
    printed = {"apiVersion": VERSION, "kind": "ExecCredential", "status": pems}
    answer.write_text(json.dumps(printed))
    user["exec"] = {
        "apiVersion": VERSION, "command": "cat", "args": [str(answer)], "interactiveMode": "Never",
    }  # fmt: skip
    kubeconfig.write_text(yaml.safe_dump(document))
