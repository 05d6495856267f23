"""Delegated auth while files of the serving certificate are being replaced."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog

from certs.authority import Authority
from tests.adapter.auth import test_delegated


@pytest.mark.virtual_time
async def test_authorities_that_come_while_the_certificate_is_replaced_are_taken_up(
    tmp_path: Path,
) -> None:
    """A serving key that does not fit at that moment does not cost the new authority."""
    async with test_delegated.guarded(tmp_path) as server:
        fresh = Authority.create("fp-new")
        server.certificates.write("fp-new", fresh.issue_client("front-proxy-client", []))
        key = server.folder / "serving.key"
        pem = key.read_bytes()
        key.write_bytes(b"half a key")
        with structlog.testing.capture_logs() as logs:
            server.stand_in.change(requestheader_client_ca_file=fresh.cert_pem.decode())
            await asyncio.sleep(10)  # virtual: it has been read, and tried again
        assert [item["event"] for item in logs].count(
            "front-proxy configuration unusable; keeping the last"
        ) == 1
        key.write_bytes(pem)
        await test_delegated.eventually(server, "fp-new", 200)
