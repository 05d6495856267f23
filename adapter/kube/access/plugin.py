"""Credentials of a kubeconfig that a program prints, as kubectl runs it for EKS, GKE and AKS.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins

They are kept until they expire, and then the program runs again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from asyncio import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
MODES = ("Never", "IfAvailable", "Always")
_FIELDS = {
    "apiVersion", "command", "args", "env", "installHint", "provideClusterInfo", "interactiveMode",
}  # fmt: skip

TIMEOUT_SECONDS = 60.0
"""Timeout of a plug-in that does not prompt the user, seconds."""

EARLY = timedelta(seconds=10)
"""Credentials that expire within this are renewed: a request takes as long."""

PAUSE_SECONDS = 5.0
"""Least seconds between two runs: what fails, or prints what has expired, is not run for each request."""

_END_SECONDS = 1.0
"""How long the end of a program that was killed is waited for."""

_SAID = 500
"""Most characters of what a program that fails says that are repeated."""


class PluginError(OSError):
    """The program did not print credentials; names it, and what helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a program printed.

    Attributes:
        token: bearer token, None: there is none.
        certificate: certificate and key of the client, PEM, None: there is none.
        expires: when they are no longer good, None: they last.

    """

    token: str | None = field(repr=False)
    certificate: tuple[str, str] | None = field(repr=False)
    expires: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A program that prints credentials.

    Attributes:
        command: the program and its arguments.
        environment: variables that it gets besides those of this process.
        version: API version of its answer.
        mode: Never, IfAvailable or Always: when the program may ask the person at the terminal.
        hint: how it is installed, may be empty.
        cluster: cluster information that the plug-in gets, None where it gets none.

    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    version: str
    mode: str
    hint: str
    cluster: Mapping[str, Any] | None = field(repr=False)

    async def run(self) -> Credentials:
        """Credentials from one run.

        Raises:
            PluginError: it cannot be started, fails, takes too long or prints something else.

        """
        asks = self.mode != "Never" and sys.stdin is not None and sys.stdin.isatty()
        if self.mode == "Always" and not asks:
            raise PluginError(f"{self.command[0]} asks a person, and there is no terminal")
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=None if asks else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                # What a person is asked must reach the terminal.
                stderr=None if asks else subprocess.PIPE,
                env={
                    **os.environ,
                    **self.environment,
                    "KUBERNETES_EXEC_INFO": self._told(asks=asks),
                },
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise self._failed(f"cannot be started: {reason}") from error
        try:
            async with asyncio.timeout(None if asks else TIMEOUT_SECONDS):
                printed, said = await process.communicate()
        except TimeoutError as error:
            raise self._failed(f"took more than {TIMEOUT_SECONDS:g} s") from error
        finally:
            if process.returncode is None:
                await _end(process)
        if process.returncode:
            text = " ".join((said or b"").decode(errors="replace").split())[-_SAID:]
            raise self._failed(f"ended with status {process.returncode}" + (text and f": {text}"))
        try:
            return _credentials(json.loads(printed), self.version)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise self._failed("printed no credentials of " + self.version) from error

    def _told(self, *, asks: bool) -> str:
        spec: dict[str, Any] = {"interactive": asks}
        if self.cluster is not None:
            spec["cluster"] = self.cluster
        return json.dumps({"apiVersion": self.version, "kind": "ExecCredential", "spec": spec})

    def _failed(self, problem: str) -> PluginError:
        hint = " ".join(self.hint.split())
        return PluginError(f"{self.command[0]} {problem}" + (hint and f"; {hint}"))


class Renewed:
    """Credentials that are kept, and renewed before they expire."""

    def __init__(self, plugin: Plugin, present: Callable[[str, str], None]) -> None:
        """`present` makes connections from now on use a certificate and its key."""
        self._plugin = plugin
        self._present = present
        self._kept: Credentials | None = None
        self._failed: PluginError | None = None
        self._not_before = float("-inf")
        self._one = asyncio.Lock()

    async def authorize(self, headers: dict[str, str]) -> None:
        """Add the header of the token, if there is one.

        Raises:
            PluginError: there are no credentials that are good.

        """
        async with self._one:
            if (self._kept is None or _expired(self._kept)) and (
                time.monotonic() >= self._not_before
            ):
                try:
                    self._kept, self._failed = await self._renewed(), None
                except PluginError as error:
                    self._failed = error
                # Not where whoever waits for it has gone: that says nothing of the program.
                self._not_before = time.monotonic() + PAUSE_SECONDS
            if self._kept is None or self._failed is not None:
                raise PluginError(str(self._failed)) from self._failed
        if self._kept.token is not None:
            headers["Authorization"] = f"Bearer {self._kept.token}"

    async def _renewed(self) -> Credentials:
        kept = await self._plugin.run()
        if kept.certificate is not None:
            try:
                self._present(*kept.certificate)
            except (OSError, ValueError) as error:
                name = self._plugin.command[0]
                problem = f"{name} printed a certificate that cannot be used"
                raise PluginError(problem) from error
        return kept


def read(document: Mapping[str, Any], folder: Path, cluster: Mapping[str, Any]) -> Plugin | None:
    """The program of a user of a kubeconfig; None: kubernetes-asyncio is to read it.

    Args:
        document: The field `exec` of the user.
        folder: Folder of the kubeconfig, which paths are relative to.
        cluster: What a program that wants to know is told about the cluster.

    """
    command, mode = document["command"], document.get("interactiveMode") or "IfAvailable"
    known = document.keys() <= _FIELDS and document["apiVersion"] in VERSIONS and mode in MODES
    if not (known and isinstance(command, str) and command):
        return None
    # As kubectl does: a name is looked for in $PATH, a path is relative to the kubeconfig.
    program = str(folder / command) if os.sep in command else command
    return Plugin(
        command=(program, *map(str, document.get("args") or ())),
        environment={str(one["name"]): str(one["value"]) for one in document.get("env") or ()},
        version=document["apiVersion"],
        mode=mode,
        hint=str(document.get("installHint") or ""),
        cluster=cluster if document.get("provideClusterInfo") else None,
    )


async def _end(process: subprocess.Process) -> None:
    """Kill a program and wait until it is gone, so that it leaves neither a zombie nor open pipes."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    # A program that it has started itself may keep the pipes.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            await process.wait()


def _credentials(answer: Any, version: str) -> Credentials:
    if answer["kind"] != "ExecCredential" or answer["apiVersion"] != version:
        raise ValueError
    status = answer["status"]
    token = status.get("token") or None
    pair = status.get("clientCertificateData"), status.get("clientKeyData")
    certificate = None if pair == (None, None) else (str(pair[0]), str(pair[1]))
    if (token is None and certificate is None) or (certificate is not None and None in pair):
        raise ValueError
    expires = status.get("expirationTimestamp")
    return Credentials(
        token=None if token is None else str(token),
        certificate=certificate,
        expires=None if expires is None else _time(str(expires)),
    )


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _expired(kept: Credentials) -> bool:
    return kept.expires is not None and datetime.now(UTC) + EARLY >= kept.expires
