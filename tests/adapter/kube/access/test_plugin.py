"""Programs that print credentials: what they are told, how long that is kept, and what failures say."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from adapter.kube.access import plugin

V1, V1BETA1 = plugin.VERSIONS

PROGRAM = """
import json, os, sys
from pathlib import Path
runs = Path(sys.argv[1])
number = len(runs.read_text().splitlines()) if runs.exists() else 0
told = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
with runs.open("a") as file:
    run = {"told": told, "region": os.environ.get("REGION"), "input": sys.stdin.read()}
    print(json.dumps(run), file=file)
status = {"token": "lasting"}
if sys.argv[2]:
    status = {"token": f"token-{number}", "expirationTimestamp": sys.argv[2]}
print(json.dumps({"apiVersion": told["apiVersion"], "kind": "ExecCredential", "status": status}))
"""


class Program:
    """A program that writes down each of its runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "program.py").write_text(PROGRAM)

    def document(self, expires: datetime | None, **fields: object) -> dict[str, Any]:
        """The field `exec` of a user."""
        until = expires.strftime("%Y-%m-%dT%H:%M:%SZ") if expires is not None else ""
        return {
            "apiVersion": V1,
            "command": sys.executable,
            "args": [str(self.folder / "program.py"), str(self.folder / "runs"), until],
            **fields,
        }

    def runs(self) -> list[dict[str, Any]]:
        """What each run was told."""
        return [json.loads(line) for line in (self.folder / "runs").read_text().splitlines()]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """One that has not run."""
    return Program(tmp_path)


def made(
    document: dict[str, Any], folder: Path, cluster: dict[str, Any] | None = None
) -> plugin.Plugin:
    """The plug-in of that field."""
    read = plugin.read(document, folder, cluster or {})
    assert read is not None
    return read


async def header(credentials: plugin.Renewed) -> str | None:
    """What a request carries."""
    headers: dict[str, str] = {}
    await credentials.authorize(headers)
    return headers.get("Authorization")


def unused(certificate: str, key: str) -> None:
    """For plug-ins that print tokens."""
    raise AssertionError(certificate, key)


@pytest.mark.parametrize("version", [V1, V1BETA1])
async def test_what_it_is_told(program: Program, version: str) -> None:
    """Version and variables of the kubeconfig, the cluster where it asks for it; nothing to read."""
    document = program.document(
        None,
        apiVersion=version,
        env=[{"name": "REGION", "value": "north"}],
        provideClusterInfo=True,
    )
    credentials = plugin.Renewed(made(document, program.folder, {"server": "https://s"}), unused)
    assert await header(credentials) == "Bearer lasting"
    spec = {"interactive": False, "cluster": {"server": "https://s"}}
    told = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    assert program.runs() == [{"told": told, "region": "north", "input": ""}]


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if some seconds passed between two requests."""
    monkeypatch.setattr(plugin, "PAUSE_SECONDS", 0.0)


@pytest.mark.usefixtures("no_pause")
async def test_credentials_are_kept_until_they_expire(program: Program) -> None:
    """Those that are good for an hour, or for ever, are asked for once; others for each request."""
    for hours, number in ((None, 1), (1, 1), (-1, 3)):
        expires = None if hours is None else datetime.now(UTC) + timedelta(hours=hours)
        credentials = plugin.Renewed(made(program.document(expires), program.folder), unused)
        for _ in range(3):
            assert await header(credentials)
        assert len(program.runs()) == number
        (program.folder / "runs").unlink()


@pytest.mark.usefixtures("no_pause")
async def test_a_renewed_token_takes_the_place_of_the_old_one(program: Program) -> None:
    """Long-lived commands outlive tokens, which last a quarter of an hour in some clusters."""
    expired = datetime.now(UTC) - timedelta(minutes=1)
    credentials = plugin.Renewed(made(program.document(expired), program.folder), unused)
    assert [await header(credentials) for _ in range(2)] == ["Bearer token-0", "Bearer token-1"]


async def test_it_does_not_run_for_each_of_many_requests(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clocks that differ make all that it prints expired; twenty watches ask at once, again and again."""
    expired = datetime.now(UTC) - timedelta(minutes=1)
    credentials = plugin.Renewed(made(program.document(expired), program.folder), unused)
    assert set(await asyncio.gather(*[header(credentials) for _ in range(20)])) == {
        "Bearer token-0"
    }
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + plugin.PAUSE_SECONDS)
    assert await header(credentials) == "Bearer token-1"


async def test_one_that_fails_does_not_run_for_each_of_many_requests(tmp_path: Path) -> None:
    """All who waited get the error of the one run, and nobody waits for the next: it may take a minute."""
    runs = tmp_path / "runs"
    document = {"apiVersion": V1, "command": "sh", "args": ["-c", f"echo x >>{runs}; exit 3"]}
    credentials = plugin.Renewed(made(document, tmp_path), unused)
    answers = await asyncio.gather(
        *[header(credentials) for _ in range(20)], return_exceptions=True
    )
    assert {str(answer) for answer in answers} == {"sh ended with status 3"}
    assert all(isinstance(answer, plugin.PluginError) for answer in answers)
    assert runs.read_text() == "x\n"


async def test_who_goes_away_is_no_failure(tmp_path: Path) -> None:
    """The next one runs it at once."""
    document = {"apiVersion": V1, "command": "sleep", "args": ["100"]}
    credentials = plugin.Renewed(made(document, tmp_path), unused)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await header(credentials)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("exit 3", "ended with status 3"),
        ("echo no login >&2; exit 1", "ended with status 1: no login"),
        ("echo nothing", f"printed no credentials of {V1}"),
        ("echo '{}'", f"printed no credentials of {V1}"),
        (f"echo '{{\"kind\": \"ExecCredential\", \"apiVersion\": \"{V1}\", \"status\": {{}}}}'",
         f"printed no credentials of {V1}"),
        (f"echo '{{\"kind\": \"ExecCredential\", \"apiVersion\": \"{V1}\", \"status\": null}}'",
         f"printed no credentials of {V1}"),
    ],
    ids=["status", "message", "text", "object", "empty", "null"],
)  # fmt: skip
async def test_a_failure_names_the_program_and_how_it_is_installed(
    tmp_path: Path, answer: str, said: str
) -> None:
    """In one line."""
    document = {
        "apiVersion": V1,
        "command": "sh",
        "args": ["-c", answer],
        "installHint": "get\n it",
    }
    with pytest.raises(plugin.PluginError) as caught:
        await made(document, tmp_path).run()
    assert str(caught.value) == f"sh {said}; get it"


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    """A path is relative to the kubeconfig, and the hint says what to install."""
    document = {"apiVersion": V1, "command": "./none", "installHint": "install it"}
    with pytest.raises(
        plugin.PluginError, match=r"/none cannot be started: No such file.*; install it"
    ):
        await made(document, tmp_path).run()


async def test_who_must_ask_a_person_needs_a_terminal(tmp_path: Path) -> None:
    """Its input is none here."""
    document = {"apiVersion": V1, "command": "cat", "interactiveMode": "Always"}
    with pytest.raises(plugin.PluginError, match="no terminal"):
        await made(document, tmp_path).run()


@pytest.mark.parametrize(
    "change",
    [{"apiVersion": "client.authentication.k8s.io/v9"}, {"interactiveMode": "Maybe"}, {"new": 1}],
)
def test_what_is_not_known_is_left_to_the_other_reader(
    program: Program, change: dict[str, object]
) -> None:
    """Later versions and fields."""
    assert plugin.read(program.document(None, **change), program.folder, {}) is None


def test_secrets_are_not_shown(program: Program) -> None:
    """Neither variables nor what was printed."""
    document = program.document(None, env=[{"name": "SECRET", "value": "hidden"}])
    assert "hidden" not in repr(made(document, program.folder))
    assert "hidden" not in repr(
        plugin.Credentials(token="hidden", certificate=("hidden", "hidden"), expires=None)
    )
