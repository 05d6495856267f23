"""Access to a cluster that one kubeconfig file describes in full: certificates, a bearer token, or a plug-in.

kubernetes-asyncio takes longer to load than most commands take. It is needed for everything else: credentials
from a token file or a password, a proxy, several files. What cannot be used is left to it too, so that one
place reports it.
"""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adapter.errors import StartupError
from adapter.kube.access import plugin as plugins

_CLUSTER_FIELDS = {
    "server", "certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify",
    "disable-compression", "extensions",
}  # fmt: skip
_USER_FIELDS = {
    "client-certificate", "client-certificate-data", "client-key", "client-key-data", "token",
}  # fmt: skip

_EXTENSION = "client.authentication.k8s.io/exec"
"""Name of the cluster's extension that is for plug-ins."""


RENEWAL_SECONDS = 5.0
"""Least seconds between two readings of credentials that are refused."""


class NoKubeconfigError(StartupError):
    """The file is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach an API server.

    Attributes:
        server: URL without a slash at its end.
        tls: settings of connections, with the client's certificate.
        headers: headers that authenticate a request.
        plugin: program that prints credentials, None: there is none.
        content: all that it was made from, to compare; None: not known.

    """

    server: str
    tls: ssl.SSLContext
    headers: Mapping[str, str] = field(repr=False)
    plugin: plugins.Plugin | None = field(repr=False, default=None)
    content: tuple[object, ...] | None = field(repr=False, default=None)

    def authorizer(self) -> Callable[[dict[str, str]], Awaitable[None]]:
        """What adds the headers that authenticate a request, or raises `plugin.PluginError`."""
        if self.plugin is None:

            async def authorize(headers: dict[str, str]) -> None:
                headers.update(self.headers)

            return authorize

        def identify(certificate: str, key: str) -> None:
            _present(self.tls, certificate.encode(), key.encode())

        return plugins.Renewed(self.plugin, identify).authorize


class Renewing:
    """Access that is read again when the API server no longer takes it, or is no longer taken for itself.

    Authorities, certificates and tokens are replaced while a process runs for months. What cannot be read, as
    while a file is being written, or leads to another server leaves the last access in use.

    Attributes:
        access: what is in use.

    """

    def __init__(self, access: Access, read_again: Callable[[], Access | None]) -> None:
        self.access = access
        self._authorize = access.authorizer()
        self._read_again = read_again
        self._not_before = float("-inf")

    def renew(self, *, refused: bool) -> None:
        """Read it again, unless that was done a moment ago.

        Args:
            refused: Whether credentials were refused: a plug-in then prints others. Without a connection it
                is not run again, as long as what there is to read is the same: it may ask a person.

        """
        if time.monotonic() < self._not_before:
            return
        self._not_before = time.monotonic() + RENEWAL_SECONDS
        access = self._read_again()
        if access is None or access.server != self.access.server:
            return
        if refused or access.content is None or access.content != self.access.content:
            self.access, self._authorize = access, access.authorizer()

    async def start(self, path: Path) -> None:
        """Have the first credentials of a kubeconfig.

        Raises:
            StartupError: the plug-in does not print any.

        """
        try:
            await self.authorize({})
        except plugins.PluginError as error:
            problem = f"{path}: no usable access to a cluster: {error}"
            raise StartupError(problem) from error

    async def authorize(self, headers: dict[str, str]) -> None:
        """Add the headers that authenticate a request.

        Raises:
            PluginError: the plug-in does not print credentials.

        """
        await self._authorize(headers)


def check(path: Path, context: str | None = None) -> None:
    """Refuse what is no kubeconfig, with an error that names the file and not a type of Python.

    Args:
        path: One file, or several joined as in $KUBECONFIG.
        context: Name of the context to use. Default the current one.

    Raises:
        StartupError: a file is not there, cannot be read, is no mapping, or none has the context.

    """
    names: list[str] = []
    for file in _files(path):
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            text = f"{file}: no such kubeconfig; name one with --kubeconfig"
            raise NoKubeconfigError(text) from error
        except OSError as error:
            raise StartupError(f"{file}: cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise StartupError(f"{file}: no kubeconfig: not UTF-8") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f" at line {mark.line + 1}" if mark else ""
            raise StartupError(f"{file}: no kubeconfig: not YAML{line}") from error
        if not isinstance(document, dict):
            raise StartupError(
                f"{file}: no kubeconfig: must be a mapping with clusters, users, contexts and"
                " current-context; name another with --kubeconfig"
            )
        names += [
            str(item.get("name"))
            for item in document.get("contexts") or ()
            if isinstance(item, dict)
        ]
    if context is not None and names and context not in names:
        raise StartupError(f"{path}: no context {context}; there are {', '.join(names)}")


def current_context(path: Path) -> str | None:
    """Name of the context that kubectl uses: the first one that a file sets; None: no file sets one.

    kubernetes-asyncio takes the last one, so it must be told.
    """
    for file in _files(path):
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        if name := document.get("current-context"):
            return str(name)
    return None


def read(path: Path, context: str | None = None) -> Access | None:
    """Access to the cluster of a context; None: kubernetes-asyncio is to read the file.

    Args:
        path: The file.
        context: Name of the context. Default the file's current one.

    """
    if os.pathsep in str(path):
        return None
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _access(document, context or document["current-context"], path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        # Not as the format has it: kubernetes-asyncio says what is wrong.
        return None


def configured(configuration: Any, server: str) -> Access | None:
    """TLS settings of a configuration of kubernetes-asyncio, from its files as they are now.

    None: they are unusable.
    """
    try:
        tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.cert_file:
            tls.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    except (OSError, ValueError):
        return None
    lenient(tls)
    if not configuration.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return Access(server=server, tls=tls, headers={})


def lenient(context: ssl.SSLContext) -> None:
    """Accept all that kubectl accepts: Python 3.13 wants extensions that some clusters' authorities lack."""
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT


def _files(path: Path) -> list[Path]:
    return [Path(part) for part in str(path).split(os.pathsep) if part]


def _access(document: Any, name: str, path: Path) -> Access | None:
    folder = path.absolute().parent
    context = _named(document["contexts"], name)["context"]
    cluster = _named(document["clusters"], context["cluster"])["cluster"]
    user = _named(document["users"], context["user"])["user"] if "user" in context else {}
    user = user or {}
    # Of a user with more than a plug-in the other reader says what counts.
    asked = user.keys() == {"exec"}
    if not (cluster.keys() <= _CLUSTER_FIELDS and (asked or user.keys() <= _USER_FIELDS)):
        return None
    server = str(cluster["server"]).rstrip("/")
    if not server.startswith("https://"):
        return None
    authority = _content(cluster, "certificate-authority", folder)
    tls = ssl.create_default_context(
        cadata=None if authority is None else authority.decode("ascii")
    )
    lenient(tls)
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    trust = authority, bool(cluster.get("insecure-skip-tls-verify"))
    if asked:
        told = _told(cluster, server, authority)
        program = plugins.read(user["exec"], folder, told)
        if program is None:
            return None
        return Access(server=server, tls=tls, headers={}, plugin=program, content=(*trust, program))
    certificate, key = (_content(user, f"client-{name}", folder) for name in ("certificate", "key"))
    if certificate is not None and key is not None:
        _present(tls, certificate, key)
    elif certificate is not None or key is not None:
        return None
    token = user.get("token")
    return Access(
        server=server,
        tls=tls,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        content=(*trust, certificate, key, token),
    )


def _named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    entries = [item for item in items if item["name"] == name]
    if len(entries) != 1:
        raise LookupError(name)
    return entries[0]


def _content(part: Mapping[str, Any], name: str, folder: Path) -> bytes | None:
    """Bytes of a file that is named, or in the document as base64; the latter counts if there are both."""
    if f"{name}-data" in part:
        return base64.standard_b64decode(part[f"{name}-data"])
    return (folder / part[name]).read_bytes() if name in part else None


def _told(cluster: Mapping[str, Any], server: str, authority: bytes | None) -> Mapping[str, Any]:
    """Cluster information for a plug-in whose kubeconfig entry has `provideClusterInfo`."""
    told: dict[str, Any] = {"server": server}
    if authority is not None:
        told["certificate-authority-data"] = base64.standard_b64encode(authority).decode()
    if cluster.get("insecure-skip-tls-verify"):
        told["insecure-skip-tls-verify"] = True
    for one in cluster.get("extensions") or ():
        if one["name"] == _EXTENSION:
            told["config"] = one["extension"]
    return told


def _present(tls: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Identify the client by a certificate; the context reads it from a file only."""
    with tempfile.NamedTemporaryFile(prefix="variant-adapter-") as file:
        file.write(certificate.rstrip() + b"\n" + key)
        file.flush()
        tls.load_cert_chain(file.name)
