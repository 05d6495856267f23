"""The local authority: its serving certificate, which other processes may serve with."""

from __future__ import annotations

from pathlib import Path

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
