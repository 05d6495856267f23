"""The local authority: its serving certificate, which other processes may serve with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from adapter import errors
from adapter.auth import local


def test_a_good_serving_certificate_is_kept(tmp_path: Path) -> None:
    """A second start leaves it alone; another host, or an authority of its own, has another one made."""
    files = local.Files(state=tmp_path)
    first = local.prepare(files, host="127.0.0.1").certificates.certificate.read_bytes()
    assert local.prepare(files, host="127.0.0.1").certificates.certificate.read_bytes() == first
    other = local.prepare(files, host="adapter.internal").certificates.certificate.read_bytes()
    assert other != first
    (tmp_path / "ca.key").unlink()
    anew = local.prepare(files, host="adapter.internal").certificates.certificate.read_bytes()
    assert anew != other


def test_an_unusable_serving_certificate_is_replaced(tmp_path: Path) -> None:
    """One that is no PEM, or whose key is another's."""
    files = local.Files(state=tmp_path)
    path = local.prepare(files, host="127.0.0.1").certificates.certificate
    good = path.read_bytes()
    path.write_bytes(b"odd")
    replaced = local.prepare(files, host="127.0.0.1").certificates.certificate.read_bytes()
    assert replaced.startswith(b"-----BEGIN CERTIFICATE-----")
    assert replaced != good
    path.write_bytes(good)
    assert local.prepare(files, host="127.0.0.1").certificates.certificate.read_bytes() != good


@pytest.mark.parametrize(
    ("flag", "field"),
    [("--client-ca-file", "client_ca"), ("--requestheader-client-ca-file", "requestheader_ca")],
)
def test_a_file_without_authorities_is_named(tmp_path: Path, flag: str, field: str) -> None:
    """With its flag: an empty one would let nobody in, and not say so."""
    given = tmp_path / "given"
    given.write_text("no PEM")
    files = dataclasses.replace(local.Files(state=tmp_path / "state"), **{field: given})
    with pytest.raises(errors.StartupError, match=f"{flag} {given}: no PEM certificates in it"):
        local.prepare(files, host="127.0.0.1")
    given.unlink()
    with pytest.raises(errors.StartupError, match=f"{flag} {given}: cannot be read: No such file"):
        local.prepare(files, host="127.0.0.1")


def test_a_state_folder_that_is_none_is_named(tmp_path: Path) -> None:
    """With its flag, because its default is not a name that people have given."""
    (tmp_path / "file").touch()
    with pytest.raises(errors.StartupError, match=r"--state-dir .*file: .*can be written"):
        local.prepare(local.Files(state=tmp_path / "file"), host="127.0.0.1")
